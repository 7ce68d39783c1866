"""The writer: batches, chance, stop strings, streams and scores, against plain transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from test_generate import TEMPLATE, WORDS, save, words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)

from llmkit.inference.writing.options import Options
from llmkit.inference.writing.text import WrittenText
from llmkit.inference.writing.writer import Writer
from llmkit.models import open_model
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting

PROMPTS = ("the", "the cat sat on a mat and", "dog ran", "a small red house by sea", "by")
SIZE = len(WORDS)
TINY = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=SIZE, n_positions=24, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1,
        initializer_range=0.5)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=SIZE, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, eos_token_id=1, initializer_range=0.5)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(
        vocab_size=SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0,
        eos_token_id=1, initializer_factor=2.0)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(
        vocab_size=SIZE, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, init_std=0.5,
        pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None)),
    "xlnet": lambda: XLNetLMHeadModel(XLNetConfig(
        vocab_size=SIZE, d_model=16, n_layer=1, n_head=2, d_inner=16, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        initializer_range=0.5)),
}


SEED = {"gpt2": 3, "llama": 1, "t5": 11, "bart": 3, "xlnet": 4}
"""Of weights with which greedy texts aren't one token again and again."""


def tiny(family: str, folder: Path) -> Writer:
    torch.manual_seed(SEED[family])
    return Writer.open(save(TINY[family](), folder / family))


@pytest.fixture(params=TINY)
def writer(request, tmp_path):
    return tiny(request.param, tmp_path)


@pytest.fixture
def llama(tmp_path):
    return tiny("llama", tmp_path)


def ids(*prompts: str) -> list[list[int]]:
    return [words()(prompt)["input_ids"] for prompt in prompts]


def plain(writer: Writer, prompt: list[int], count: int = 12, **options) -> list[int]:
    """What transformers' own `generate` writes to one prompt, its end cut."""
    out = writer.opened.model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=count, pad_token_id=0,
        **{"do_sample": False, **options})[0, 1 if writer.reads else len(prompt):].tolist()
    return out[:out.index(1)] if 1 in out else out


def written(writer: Writer, prompts=PROMPTS, **options) -> list[list[int]]:
    made = writer.write(ids(*prompts), Options(**{"max_new_tokens": 12, **options}))
    return [list(completion.ids) for (completion,) in made]


def test_a_batch_of_uneven_prompts_gives_what_each_gives_alone(writer):
    alone = [plain(writer, prompt) for prompt in ids(*PROMPTS)]
    assert written(writer) == alone
    assert len({len(one) for one in alone}) > 1 or writer.opened.model.config.model_type == "bart"


def test_padding_is_no_part_of_the_text_that_a_repetition_penalty_looks_at(writer):
    penalized = written(writer, repetition_penalty=3.0)
    assert penalized == [plain(writer, prompt, repetition_penalty=3.0) for prompt in ids(*PROMPTS)]
    assert penalized != written(writer)


def test_a_batch_penalizes_no_padding_where_the_token_that_pads_is_the_likeliest(tmp_path):
    torch.manual_seed(3)
    model = TINY["gpt2"]()
    with torch.no_grad():  # it always writes the token that pads, until that is penalized
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.transformer.wte.weight[0])
    writer = Writer.open(save(model, tmp_path))
    assert written(writer, repetition_penalty=30.0) == [
        plain(writer, prompt, repetition_penalty=30.0) for prompt in ids(*PROMPTS)]


def test_beams_give_what_transformers_gives(writer):
    for options in ({"num_beams": 3}, {"num_beams": 3, "length_penalty": 3.0}):
        assert written(writer, **options) == [plain(writer, prompt, **options) for prompt in ids(*PROMPTS)]


def test_a_short_prompt_goes_on_where_a_long_one_has_no_room_left(tmp_path):
    writer = tiny("gpt2", tmp_path)
    prompts = ("the " * 21, "the")
    made = writer.write(ids(*prompts), Options(max_new_tokens=18))
    alone = [plain(writer, prompt, room) for prompt, room in zip(ids(*prompts), (3, 18), strict=True)]
    assert [list(one.ids) for (one,) in made] == alone
    assert made[0][0].finish_reason == "length"


def test_a_seeded_text_depends_on_its_number_and_not_on_the_batch(writer):
    options = Options(max_new_tokens=10, temperature=1.2, seed=5, num_return_sequences=2)
    together = [[one.ids for one in both] for both in writer.write(ids(*PROMPTS), options)]
    for i, prompt in enumerate(ids(*PROMPTS)):
        assert [one.ids for one in writer.write([prompt], options, numbers=[i])[0]] == together[i]
    alone = writer.write(ids("the"), Options(max_new_tokens=10, temperature=1.2, seed=5))
    assert alone[0][0].ids == together[0][0]
    assert len({one.ids for some in writer.write(ids(*["the"] * 6), options) for one in some}) > 6


@pytest.mark.parametrize("options", [
    {"temperature": 1.0}, {"temperature": 0.5}, {"top_p": 0.7}, {"top_k": 3}, {"min_p": 0.3}, {"typical_p": 0.6}])
def test_texts_are_drawn_with_the_probabilities_that_the_options_say(llama, options):
    prompt = ids("the cat")[0]
    p = torch.softmax(llama.opened.model(torch.tensor([prompt])).logits[0, -1].double() / options.get("temperature", 1),
                      -1).detach().numpy()
    order = np.argsort(-p)
    allowed = order
    if "top_p" in options:
        allowed = order[:int((np.cumsum(p[order]) < options["top_p"]).sum()) + 1]
    elif "top_k" in options:
        allowed = order[:options["top_k"]]
    elif "min_p" in options:
        allowed = order[p[order] >= options["min_p"] * p.max()]
    elif "typical_p" in options:
        surprise = np.abs(-np.log(p) + (p * np.log(p)).sum())
        order = np.argsort(surprise)
        allowed = order[:int((np.cumsum(p[order]) < options["typical_p"]).sum()) + 1]
    expected = np.zeros(SIZE)
    expected[allowed] = p[allowed] / p[allowed].sum()
    draws = 3000
    made = llama.write([prompt] * draws, Options(max_new_tokens=1, seed=3, **options))
    first = [one.ids[0] if one.ids else 1 for (one,) in made]
    seen = np.bincount(first, minlength=SIZE)
    assert not seen[expected == 0].any()
    common = expected * draws >= 5
    rest = [draws - seen[common].sum()], [draws * (1 - expected[common].sum())]
    observed, wanted = seen[common], draws * expected[common]
    if rest[1][0] > 1e-6:
        observed, wanted = np.append(observed, rest[0]), np.append(wanted, rest[1])
    assert chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])  # XLNet reads with a placeholder for what is next
def test_scores_are_the_raw_log_probabilities_of_the_tokens(tmp_path, family):
    writer = tiny(family, tmp_path)
    prompt = ids("a small")[0]
    for options in ({}, {"temperature": 2.0, "top_k": 5, "seed": 1}, {"repetition_penalty": 2.0}, {"num_beams": 2}):
        (completion,), = writer.write([prompt], Options(max_new_tokens=6, logprobs=2, **options))
        raw = raw_logs(writer, prompt, completion.ids)
        expected = [float(logs[token]) for logs, token in zip(raw, completion.ids, strict=True)]
        assert [one.logprob for one in completion.logprobs] == pytest.approx(expected, abs=1e-4)
        assert completion.score == pytest.approx(sum(expected) / len(expected), abs=1e-4)
        best = raw[0].topk(2)
        assert [token for token, _ in completion.logprobs[0].likeliest] == [WORDS[i] for i in best.indices]
        assert [value for _, value in completion.logprobs[0].likeliest] == pytest.approx(best.values.tolist(), abs=1e-4)


def raw_logs(writer: Writer, prompt: list[int], made: tuple[int, ...]) -> list[torch.Tensor]:
    """What the model says of all tokens at each place of a text, read one at a time without a cache."""
    logs = []
    for i in range(len(made)):
        if writer.reads:
            start = writer.opened.model.generation_config.decoder_start_token_id
            given = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[start, *made[:i]]])}
        else:
            given = {"input_ids": torch.tensor([[*prompt, *made[:i]]])}
        with torch.no_grad():
            out = writer.opened.model(**given, attention_mask=torch.ones_like(given["input_ids"]))
        logs.append(out.logits[0, -1].double().log_softmax(-1))
    return logs


@pytest.mark.parametrize("beams", [1, 2])
def test_a_stop_string_ends_the_text_before_it_and_is_never_streamed(llama, beams):
    whole = llama.write(ids("the cat"), Options(max_new_tokens=12, num_beams=beams))[0][0].text.split()
    stop = f"{whole[3]} {whole[4]}"  # over two tokens
    before = " ".join(whole).partition(stop)[0]
    pieces: list[str] = []
    (completion,), = llama.write(
        ids("the cat"), Options(max_new_tokens=12, stop=("nowhere", stop), num_beams=beams),
        stream=lambda _, piece: pieces.append(piece))
    assert (completion.text, completion.finish_reason) == (before, "stop")
    assert "".join(pieces) == before
    assert completion.tokens == len(completion.ids) == 4  # the last of them for the space before the stop string


def test_a_special_token_can_be_a_stop_string(llama):
    first = llama.write(ids("the cat"), Options(max_new_tokens=3))[0][0].ids
    llama.opened.tokenizer.add_tokens([WORDS[first[1]]], special_tokens=True)
    (completion,), = llama.write(ids("the cat"), Options(max_new_tokens=12, stop=(WORDS[first[1]],)))
    assert (completion.ids, completion.finish_reason) == (first[:1], "stop")


def test_streams_of_a_batch_add_up_to_its_texts(writer):
    pieces: dict[int, list[str]] = {i: [] for i in range(len(PROMPTS))}
    made = writer.write(ids(*PROMPTS), Options(max_new_tokens=8), stream=lambda i, piece: pieces[i].append(piece))
    assert ["".join(pieces[i]) for i in range(len(PROMPTS))] == [completion.text for (completion,) in made]
    assert max(map(len, pieces.values())) > 1


def bytewise() -> PreTrainedTokenizerFast:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.mark.parametrize(("stop", "pieces"), [
    ((), ["n", "é", " ", "😀", ".", " ", "你", "好"]),
    (("😀.",), ["n", "é", " "]),  # what may become a stop string is held back
    (("😀", "é 😀"), ["n"]),  # both are whole with the same byte: the first of them counts
    (("😀?",), ["n", "é", " ", "😀.", " ", "你", "好"]),
])
def test_a_stream_is_of_whole_characters_that_add_up_to_the_text(stop, pieces):
    tokenizer = bytewise()
    sent: list[str] = []
    text = WrittenText(tokenizer, stop, {300}, 99, sent.append)
    for token in [*tokenizer("né 😀. 你好").input_ids, 300]:
        if not text.reason:
            text.add(token)
    assert sent == pieces
    assert "".join(sent) == text.completion(False).text
    assert text.reason == "stop"


@pytest.mark.parametrize("helped", [False, True])
def test_whoever_asked_can_stop_it_after_any_token(llama, helped):
    llama.assistant = llama.opened if helped else None
    llama.opened.model.generation_config.eos_token_id = 0
    answers = iter([True] if helped else [False, False, True])  # an assistant's guesses are one step
    made, = llama.write(ids("the cat"), Options(max_new_tokens=30), stopped=lambda: next(answers))[0]
    assert made.finish_reason == "stopped"
    assert made.tokens == 3 or (helped and 1 <= made.tokens < 30)
    whole = llama.opened.model.generate(torch.tensor(ids("the cat")), max_new_tokens=30)[0, 2:].tolist()
    assert list(made.ids) == whole[:made.tokens]


def test_an_assistant_changes_no_greedy_token_and_no_distribution(tmp_path, llama):
    torch.manual_seed(9)
    other = save(TINY["llama"](), tmp_path / "assistant")
    helped = Writer.open(llama.name, other)
    pieces: list[str] = []
    made = helped.write(ids(*PROMPTS), Options(max_new_tokens=12), stream=lambda i, piece: pieces.append(piece))
    assert [list(one.ids) for (one,) in made] == written(llama)
    assert "".join(pieces) == "".join(one.text for (one,) in made)
    sampled = Options(max_new_tokens=6, temperature=1.0, seed=2)
    one = helped.write(ids(*PROMPTS), sampled)
    assert helped.write(ids(PROMPTS[1]), sampled, numbers=[1])[0] == one[1]


def test_an_assistant_of_another_vocabulary_is_refused(tmp_path, llama):
    folder = Path(save(TINY["llama"](), tmp_path / "assistant"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = tokenizer["model"]["vocab"].pop("sea")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RequestError, match=r"has other tokens than .*'sea'"):
        Writer.open(llama.name, str(folder))
    with pytest.raises(RequestError, match="opened as AutoModelForSeq2SeqLM"):
        Writer.open(llama.name, tiny("t5", tmp_path).name)


def tuned(family: str, method: str, folder: Path) -> Writer:
    """A model with an adapter whose weights aren't what they started from, as a run leaves it."""
    base = tiny(family, folder)
    kind = registry.find("backbones", family)
    setting = Setting(kind, base.opened.kind, base=base.name, tokenizer=words())
    options = {"lora": {"r": 2, "init_lora_weights": False}, "prefix": {"num_virtual_tokens": 3},
               "prompt": {"num_virtual_tokens": 3}}[method]
    how = registry.find("tuning", method)(**options)
    model = how.apply(open_model(base.name).model, setting)  # the writer's own is packed
    torch.manual_seed(7)
    if method != "lora":
        for weight in (one for one in model.parameters() if one.requires_grad):
            weight.data = torch.randn_like(weight)
    how.save(model, folder / method)
    words().save_pretrained(folder / method)
    return Writer.open(str(folder / method))


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_an_adapter_writes_to_a_batch_what_it_writes_to_each_alone(tmp_path, family, method):
    writer = tuned(family, method, tmp_path)
    made = written(writer)
    assert made != written(tiny(family, tmp_path / "base"))
    alone = [writer.opened.model.generate(
        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12, do_sample=False,
        pad_token_id=0)[0, 1 if writer.reads else len(prompt):].tolist() for prompt in ids(*PROMPTS)]
    assert made == [one[:one.index(1)] if 1 in one else one for one in alone]
    sampled = Options(max_new_tokens=8, temperature=1.0, seed=2)
    together = writer.write(ids(*PROMPTS), sampled)
    assert writer.write(ids(PROMPTS[1]), sampled, numbers=[1])[0][0].ids == together[1][0].ids
    for options in ({"num_beams": 2}, {}):
        prompt = ids(next(one for one, text in zip(PROMPTS, made, strict=True) if text))[0]
        (completion,), = writer.write([prompt], Options(max_new_tokens=4, **options))
        logs = [float(one[token]) for one, token in zip(
            raw_logs(writer, prompt, completion.ids), completion.ids, strict=True)]
        assert completion.score == pytest.approx(sum(logs) / len(logs), abs=1e-4)


def test_messages_go_through_the_chat_template(tmp_path):
    writer = Writer.open(save(TINY["llama"](), tmp_path / "chat", TEMPLATE))
    assert [writer.ids([{"role": "user", "content": "the cat"}])] == ids("user the cat model")
    assert [writer.ids("the cat", system="dog")] == ids("system dog user the cat model")
    assert [writer.ids("the cat", raw=True)] == ids("the cat")
    with pytest.raises(RequestError, match="number 1 must be"):
        writer.ids([{"content": "the cat"}])
    with pytest.raises(RequestError, match="raw text has none"):
        writer.ids([{"role": "user", "content": "the cat"}], raw=True)


def test_a_prompt_that_is_too_long_says_by_how_much(tmp_path):
    with pytest.raises(RequestError, match="30 tokens are 7 more than the 23"):
        tiny("gpt2", tmp_path).write(ids("the", "cat " * 30), Options())


def test_the_tokenizer_stays_as_it_was(writer):
    writer.opened.tokenizer.padding_side = "right"
    written(writer)
    assert writer.opened.tokenizer.padding_side == "right"
