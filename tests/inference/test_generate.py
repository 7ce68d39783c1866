"""Generation from tiny random models, against transformers' own."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as token_models
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from llmkit import models
from llmkit.cli import main
from llmkit.inference import generate as generation
from llmkit.inference.generate import Options, generate, settled
from llmkit.inference.writing.memory import PrefixMemory
from llmkit.inference.writing.options import check_assisted
from llmkit.inference.writing.writer import Writer
from llmkit.system.errors import RequestError

SENTENCE = "the cat sat on a mat and dog ran to its small red house by sea"
WORDS = ["<pad>", "<end>", "user", "model", *SENTENCE.split()]
TEMPLATE = ("{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'model' }}{% endif %}")


def words() -> PreTrainedTokenizerFast:
    inner = Tokenizer(token_models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<pad>")


def save(model: PreTrainedModel, folder: Path, template: str | None = None) -> str:
    tokenizer = words()
    tokenizer.chat_template = template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def gpt2(tmp_path):
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=24, n_embd=16, n_layer=1, n_head=2, bos_token_id=1,
                        eos_token_id=1, initializer_range=0.5)
    return save(GPT2LMHeadModel(config), tmp_path / "gpt2")


@pytest.fixture
def llama(tmp_path):
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=24, bos_token_id=1, eos_token_id=1,
                         initializer_range=0.5)
    return save(LlamaForCausalLM(config), tmp_path / "llama", TEMPLATE)


@pytest.fixture
def t5(tmp_path):
    torch.manual_seed(1)
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
                      decoder_start_token_id=0, eos_token_id=1, initializer_factor=5.0)
    return save(T5ForConditionalGeneration(config), tmp_path / "t5")


def greedy(cls, folder: str, ids: list[int], drop: int) -> str:
    model = cls.from_pretrained(folder).eval()
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=8, do_sample=False,
                         pad_token_id=0)
    return words().decode(out[0, drop:], skip_special_tokens=True)


def test_a_decoder_goes_on_as_transformers_does(gpt2):
    ids = words()("the cat sat")["input_ids"]
    text = generate("the cat sat", gpt2, Options(max_new_tokens=8)).completions[0].text
    assert f"the cat sat{text}" == greedy(GPT2LMHeadModel, gpt2, ids, 0) != "the cat sat"


def test_a_chat_template_is_used_unless_raw(llama):
    chat = words()("user the cat model")["input_ids"]
    raw = words()("the cat")["input_ids"]
    options = Options(max_new_tokens=8)
    assert generate("the cat", llama, options).completions[0].text == greedy(LlamaForCausalLM, llama, chat, 4)
    gone_on = "the cat" + generate("the cat", llama, options, raw=True).completions[0].text
    assert gone_on == greedy(LlamaForCausalLM, llama, raw, 0)


def test_an_encoder_decoder_reads_the_prompt_in_its_encoder(t5):
    ids = words()("the cat sat")["input_ids"]
    text = generate("the cat sat", t5, Options(max_new_tokens=8)).completions[0].text
    assert text == greedy(T5ForConditionalGeneration, t5, ids, 1) != ""


@pytest.mark.parametrize(("cls", "instead"), [
    (BertForSequenceClassification, "labels texts .*predict"), (BertForTokenClassification, "labels words"),
    (BertForQuestionAnswering, "finds answers"), (BertModel, "turns texts into vectors .*search"),
    (BertForNextSentencePrediction, "tells whether sentences follow")])
def test_a_model_that_writes_nothing_is_refused_with_what_it_is_for(tmp_path, cls, instead):
    config = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16)
    folder = save(cls(config), tmp_path)
    with pytest.raises(RequestError, match=rf"doesn't write any text: it {instead}.*use a decoder"):
        generate("the cat", folder)


def test_a_seed_repeats_the_text_and_leaves_the_callers_chance_alone(gpt2):
    options = Options(max_new_tokens=12, temperature=1.5, seed=7, num_return_sequences=3)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = generate("the cat", gpt2, options)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generate("the cat", gpt2, options) == first
    assert len({completion.text for completion in first.completions}) > 1


def test_the_stream_adds_up_to_the_text(gpt2):
    pieces: list[str] = []
    result = generate("the cat", gpt2, Options(max_new_tokens=8), stream=pieces.append)
    assert "".join(pieces) == result.completions[0].text
    assert len(pieces) > 1


def test_beams_give_whole_texts_at_the_end(gpt2):
    pieces: list[str] = []
    result = generate("the cat", gpt2, Options(max_new_tokens=5, num_beams=3, num_return_sequences=2),
                      stream=pieces.append)
    assert pieces == [completion.text + "\n" for completion in result.completions]
    assert len(pieces) == 2


def test_the_json_holds_what_was_asked_and_written(gpt2):
    result = generate("the cat", gpt2, Options(max_new_tokens=3))
    completion = result.completions[0]
    assert result.as_json() == {"prompt": "the cat", "model": gpt2, "completions": [
        {"text": completion.text, "tokens": completion.tokens, "finish_reason": completion.finish_reason,
         "score": completion.score}]}
    assert (completion.tokens, completion.finish_reason) == (3, "length")


def test_a_text_that_the_model_ends_stops(tmp_path):
    config = GPT2Config(vocab_size=len(WORDS), n_positions=24, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.transformer.wte.weight[1] * 100)
    completion = generate("the cat", save(model, tmp_path)).completions[0]
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", 0, "stop")


def test_what_does_not_fit_is_cut_with_a_note(gpt2):
    result = generate("the cat sat on", gpt2, Options(max_new_tokens=100, temperature=5.0, seed=0))
    assert result.notes == ("max_new_tokens is 20, not 100: the model has 24 positions, and the prompt takes 4.",)


def test_a_prompt_beyond_the_context_says_by_how_much(gpt2):
    with pytest.raises(RequestError, match="30 tokens are 7 more than the 23"):
        generate("cat " * 30, gpt2)


def test_a_system_prompt_needs_a_chat_template(gpt2):
    with pytest.raises(RequestError, match="no chat template"):
        generate("the cat", gpt2, system="the dog")


def test_an_empty_prompt_starts_from_the_end_token(gpt2):
    assert generate("", gpt2, Options(max_new_tokens=4)).completions[0].tokens > 0


@pytest.mark.parametrize(("options", "message"), [
    ({"max_new_tokens": 0}, "max_new_tokens: 0 must be 1 or more"),
    ({"temperature": -0.1}, "temperature: -0.1 must be 0 or more"),
    ({"temperature": 0.0, "do_sample": True}, "leave do_sample out"),
    ({"temperature": 0.0, "num_return_sequences": 2}, "every text is the same"),
    ({"min_p": 1.5}, "min_p: 1.5"),
    ({"typical_p": 0}, "typical_p: 0"),
    ({"stop": ("", "x")}, "stop: an empty string"),
    ({"length_penalty": 2.0}, "length_penalty: is for beam search"),
    ({"logprobs": -1}, "logprobs: -1"),
    ({"top_p": 1.5}, "top_p: 1.5"),
    ({"top_k": 0}, "top_k: 0"),
    ({"seed": -1}, "seed: -1"),
    ({"do_sample": False, "top_p": 0.9}, "top_p has no effect"),
    ({"num_beams": 2, "num_return_sequences": 3}, "2 beams can't give 3"),
    ({"do_sample": False, "num_return_sequences": 2}, "every text is the same"),
    ({"compile": True, "num_beams": 2}, "compile: beams move from row to row in a cache"),
])
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        Options(**options)


CPU = "compile: steps are compiled on GPUs, and here it is a CPU that writes; leave it out"


def test_steps_are_not_compiled_on_a_cpu_and_it_is_told_before_anything_is_opened(gpt2, capsys):
    with pytest.raises(RequestError, match=CPU):
        generate("the cat", "nobody/nothing", Options(compile=True))
    with pytest.raises(RequestError, match=CPU):
        generate("the cat", models.open_model(gpt2), Options(compile=True))
    assert main(["generate", "the cat", "--model", gpt2, "--compile"]) == 2
    assert f"llmkit: error: {CPU}" in capsys.readouterr().err
    assert generate("the cat", gpt2, Options(compile=False, max_new_tokens=2)).completions[0].tokens <= 2


def test_what_moves_or_takes_back_what_was_read_is_not_compiled(gpt2):
    with pytest.raises(RequestError, match="compile: a conversation keeps what was read, in a cache that grows"):
        Writer.open(gpt2).write([[4]], Options(compile=True), memory=PrefixMemory())
    with pytest.raises(RequestError, match="compile: an assistant's wrong guesses are taken back"):
        check_assisted(Options(compile=True))


def test_the_steps_of_a_large_file_are_compiled_on_a_gpu_where_they_can_be(gpt2, caplog, monkeypatch):
    """300 tokens a batch: seven batches are 2,100 steps."""
    writer = Writer.open(gpt2)
    assert settled(writer, Options(), 100).compile is None  # on a CPU nothing is said of it
    writer.device = "cuda:0"
    caplog.set_level("INFO", "llmkit")
    monkeypatch.setattr(generation, "uncompiled", lambda opened, device: "")
    assert settled(writer, Options(), 6).compile is None
    assert settled(writer, Options(num_beams=2), 7).compile is None
    assert not caplog.messages
    assert settled(writer, Options(compile=False), 7).compile is False
    assert settled(writer, Options(), 7).compile is True
    monkeypatch.setattr(generation, "uncompiled", lambda opened, device: "there is no compiler")
    assert settled(writer, Options(), 7).compile is False
    assert caplog.messages == [
        "up to 2,100 steps are compiled, which takes a while first (--no-compile goes without)",
        "steps aren't compiled: there is no compiler"]


def test_nothing_warns(gpt2, capfd, recwarn):
    generate("the cat", gpt2, Options(max_new_tokens=2))
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []
