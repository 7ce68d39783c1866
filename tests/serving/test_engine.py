"""The engine: texts that come and go between steps, against plain transformers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from served import letters
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmkit import models, recipe
from llmkit.backbones.kernels.packed_decoder import Decoder
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.pieces import Pieces
from llmkit.inference.writing.sampling import Choosing
from llmkit.inference.writing.writer import Writer
from llmkit.models import Opened
from llmkit.serving import engine as engines
from llmkit.serving.engine import Engine, suits
from llmkit.serving.jobs import End, Job, Piece, Wish
from llmkit.serving.protocol import CompletionRequest, told
from llmkit.serving.requests import Limits, of_completion
from llmkit.serving.served import WritingModel
from llmkit.serving.window import TextWindow
from llmkit.system.errors import DeviceFullError
from llmkit.training.fit import fit

SIZE = len(letters())
SHAPE = {"vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3,
         "bos_token_id": None, "eos_token_id": 1}
TINY: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=SIZE, n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=1,
        initializer_range=0.3)),
    "opt": lambda: OPTForCausalLM(OPTConfig(
        vocab_size=SIZE, hidden_size=32, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, word_embed_proj_dim=32, init_std=0.3, bos_token_id=None, eos_token_id=1)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(
        vocab_size=SIZE, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0,
        eos_token_id=1, initializer_factor=2.0)),
}
PROMPTS = ["a", "the cat sat on a mat", "Ω", "one more, of quite another length: " + "x" * 40, "b?", "to be"]


@cache
def opened(family: str) -> Opened:
    torch.manual_seed(11)  # weights with which some texts end
    model = TINY[family]().eval()
    kind = "AutoModelForSeq2SeqLM" if family == "t5" else "AutoModelForCausalLM"
    return Opened(model, letters(), Path(family), kind)


def engine_of(family: str, written_out: bool = True) -> Engine:
    """An engine whose decoder, where the family is known, works on a packed copy of the model."""
    one = opened(family)
    return Engine(one, Decoder.of(copy.deepcopy(one.model)) if written_out else None)


def said(tokenizer: Any, row: list[int]) -> str:
    """Tokens as they are told one by one: of bytes that are no character, a mark each."""
    pieces = Pieces(tokenizer)
    return "".join([*map(pieces.add, row), pieces.end()])


def ids(text: str) -> list[int]:
    return letters()(text)["input_ids"]


def plain(model: Any, prompt: list[int], count: int, **options: Any) -> list[int]:
    """What transformers' own `generate` writes, its end cut."""
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
                         max_new_tokens=count, pad_token_id=0, **options)[0, len(prompt):].tolist()
    return out[:out.index(1)] if 1 in out else out


@dataclass
class Asked:
    """A job, and what was heard of it."""

    prompt: list[int]
    options: Options = field(default_factory=lambda: Options(max_new_tokens=24))
    choosing: Choosing = field(default_factory=Choosing)
    seed: int = 0
    end: int = 1
    wish: Wish | None = None
    texts: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, list[str]] = field(default_factory=dict)
    ends: dict[int, End] = field(default_factory=dict)

    @property
    def job(self) -> Job:
        wish = self.wish or Wish(self.options, self.choosing, frozenset({self.end}))
        return Job(self.prompt, wish, self.seed, self.options.num_return_sequences, self.hear)

    def hear(self, number: int, event: Piece | End) -> None:
        if isinstance(event, End):
            assert number not in self.ends
            self.ends[number] = event
        else:
            assert number not in self.ends
            self.texts[number] = self.texts.get(number, "") + event.text
            if event.chosen:
                self.tokens.setdefault(number, []).append(event.chosen.token)


def run(engine: Engine, asked: list[Asked], apart: int = 0) -> list[Asked]:
    """Let jobs come `apart` turns after each other, and all of them end."""
    turn = 0
    while engine.busy or turn <= apart * (len(asked) - 1):
        for i, one in enumerate(asked):
            if i * apart == turn:
                engine.admit(one.job)
        engine.turn()
        turn += 1
    assert not engine.table.filled
    return asked


@pytest.mark.parametrize("apart", [0, 1, 3])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2", "opt"])
@pytest.mark.parametrize("forward", ["written out", "transformers"])
def test_texts_written_together_are_those_that_transformers_writes_alone(family, apart, forward):
    assert suits(opened(family))
    engine = engine_of(family, forward == "written out")
    assert (engine.decoder is not None) == (forward == "written out" and family in ("llama", "qwen3", "gpt2"))
    prompts = [ids(text) for text in PROMPTS]
    expected = [plain(opened(family).model, prompt, 24) for prompt in prompts]
    assert len({tuple(row) for row in expected}) == len(prompts)
    for one, row in zip(run(engine, [Asked(prompt) for prompt in prompts], apart), expected):
        assert one.texts[0] == said(letters(), row)
        assert (one.ends[0].reason, one.ends[0].tokens) == ("length" if len(row) == 24 else "stop", len(row))


@pytest.mark.parametrize("family", ["mistral", "t5"])
def test_models_whose_rows_cant_share_a_table_are_known(family):
    assert not suits(opened(family))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["lora", "ia3", "prefix", "prompt", "p_tuning"])
def test_adapters_write_as_they_do_alone(family, method, text, tmp_path, base_of_engine):
    run_folder = tmp_path / "run"
    fit(recipe.load({
        "backbone": {"pretrained": str(base_of_engine(family))}, "tuning": {"method": method}, "objective": "causal_lm",
        "data": {"train": str(text), "max_length": 32, "packing": "none"}, "output_dir": str(run_folder),
        "training": {"figures": False,
                     "max_steps": 4, "global_batch_size": 8, "learning_rate": 0.3, "precision": "fp32"}}))
    tuned = models.open_model(run_folder)
    assert suits(tuned)
    texts = ("the cat", "a dog saw the moon and", "my", "the old king")
    prompts = [tuned.tokenizer(text)["input_ids"] for text in texts]
    ends = tuned.tokenizer.eos_token_id
    expected = [plain(tuned.model, prompt, 12, eos_token_id=ends) for prompt in prompts]
    base = models.open_model(base_of_engine(family)).model
    assert expected != [plain(base, prompt, 12, eos_token_id=ends) for prompt in prompts]
    options = Options(max_new_tokens=12)
    for one, row in zip(run(Engine(tuned), [Asked(prompt, options, end=ends) for prompt in prompts], 1), expected):
        assert one.texts[0] == said(tuned.tokenizer, row)


@pytest.fixture(scope="module")
def base_of_engine(text, tmp_path_factory):
    @cache
    def make(family: str) -> Path:
        folder: Path = tmp_path_factory.mktemp("base") / family
        fit(recipe.load({
            "backbone": {"family": family, "size": "tiny", "config": {**SMALL[family], "initializer_range": 0.3}},
            "tokenizer": {"train": {"vocab_size": 300}}, "data": {"train": str(text), "max_length": 32},
            "objective": "causal_lm", "training": {"figures": False,
                                                   "max_steps": 1, "global_batch_size": 8}, "output_dir": str(folder)}))
        return folder

    return make


def test_a_long_prompt_is_read_in_parts_while_others_are_written(monkeypatch):
    monkeypatch.setattr(engines, "READ", 8)
    long, short = Asked(ids("y" * 60)), Asked(ids("z"), Options(max_new_tokens=24, logprobs=0))
    engine = engine_of("llama")
    engine.admit(short.job)
    engine.turn()
    engine.admit(long.job)
    for _ in range(7):
        engine.turn()
    assert len(short.tokens[0]) == 9 and not long.texts
    while engine.busy:
        engine.turn()
    assert long.texts[0] == said(letters(), plain(opened("llama").model, long.prompt, 24))


def test_a_text_that_nobody_listens_to_is_gone_by_the_next_step():
    engine = engine_of("llama")
    asked = [Asked(ids(text)) for text in PROMPTS[:4]]
    jobs = [one.job for one in asked]
    for job in jobs:
        engine.admit(job)
    for _ in range(5):
        engine.turn()
    assert len(engine.rows) == 4
    jobs[1].gone = True
    before = asked[1].texts[0]
    engine.turn()
    assert len(engine.rows) == len(engine.table.filled) == 3
    while engine.busy:
        engine.turn()
    assert asked[1].texts[0] == before and not asked[1].ends and jobs[1].left == 0
    for one in (asked[0], asked[2], asked[3]):
        assert one.texts[0] == said(letters(), plain(opened("llama").model, one.prompt, 24))


def test_a_seeded_text_is_the_same_in_any_company_and_from_the_writer():
    options = Options(max_new_tokens=16, temperature=1.3, seed=7, num_return_sequences=2)
    writer = Writer("llama", opened("llama"))
    config, ends, _ = writer.settings(options)
    assert ends == [1]
    choosing = Choosing.of(config)
    assert (choosing.temperature, choosing.top_k) == (1.3, 50)
    written = [one.text for one in writer.write([ids("the cat")], options)[0]]
    assert written[0] != written[1]
    alone, = run(engine_of("llama"), [Asked(ids("the cat"), options, choosing, 7)])
    others = [Asked(ids(text), Options(max_new_tokens=9), Choosing(True, temperature=2.0), i)
              for i, text in enumerate(PROMPTS)]
    again = Asked(ids("the cat"), options, choosing, 7)
    run(engine_of("llama"), [*others[:3], again, *others[3:]], 1)
    assert [alone.texts[0], alone.texts[1]] == [again.texts[0], again.texts[1]] == written


def test_log_probabilities_are_the_models_own():
    model, prompt = opened("llama").model, ids("the cat")
    heard: list[Piece] = []
    asked = Asked(prompt, Options(max_new_tokens=6, logprobs=2), Choosing(repetition_penalty=1.7))
    job = asked.job
    job.hear = lambda number, event: heard.append(event) if isinstance(event, Piece) and event.chosen else None
    engine = engine_of("llama")
    engine.admit(job)
    while engine.busy:
        engine.turn()
    row = plain(model, prompt, 6, repetition_penalty=1.7)
    assert row != plain(model, prompt, 6) and len(heard) == len(row) == 6
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1:-1].log_softmax(-1)
    for piece, token, expected in zip(heard, row, logprobs):
        assert piece.chosen is not None and piece.chosen.token == letters().decode([token])
        assert piece.chosen.logprob == pytest.approx(float(expected[token]), abs=1e-4)
        likeliest = expected.topk(2).values.tolist()
        assert [value for _, value in piece.chosen.likeliest] == pytest.approx(likeliest, abs=1e-4)


@pytest.mark.parametrize("forward", ["written out", "transformers"])
def test_a_number_that_isnt_finite_ends_its_text_alone(forward):
    torch.manual_seed(2)
    model = TINY["llama"]().eval()
    bad, short, long = Asked(ids("x" * 60)), Asked(ids("the cat")), Asked(ids("y" * 30))
    decoder = Decoder.of(copy.deepcopy(model)) if forward == "written out" else None
    engine = Engine(Opened(model, letters(), Path("x"), "AutoModelForCausalLM"), decoder)
    for one in (bad, short, long):
        engine.admit(one.job)
    engine.turn()
    with torch.inference_mode():
        for layer in engine.table.parts:
            layer.values[0] = float("nan")  # of all its places, which another text gets
    while engine.busy:
        engine.turn()
    assert bad.ends[0].reason == "error" and "finite" in str(bad.ends[0].error)
    for one in (short, long):
        assert one.texts[0] == said(letters(), plain(model, one.prompt, 24))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_conversation_that_comes_back_isnt_read_anew(family):
    model, engine = opened(family).model, engine_of(family)
    first, = run(engine, [Asked(ids("you are a machine that writes. one two"))])
    row = plain(model, first.prompt, 24)
    talk = first.prompt + row[:20] + ids(" and then?")
    engine.admit(Asked(talk).job)
    assert engine.reading[0].done == len(first.prompt) + 20
    engine.turn()
    others = [Asked(talk), Asked(ids("you are a machine that reads. three")), Asked(ids("you")), Asked(first.prompt)]
    for one in others:
        engine.admit(one.job)
    assert [reading.done for reading in engine.reading] == [
        len(first.prompt) + 20, len("you are a machine that "), 0, len(first.prompt) - 1]
    while engine.busy:
        engine.turn()
    assert [one.texts.get(0, "") for one in others] == [said(letters(), plain(model, one.prompt, 24)) for one in others]


def test_what_is_remembered_has_its_limits():
    engine = engine_of("llama")
    run(engine, [Asked(ids(letter * 30)) for letter in "abcd"])
    assert len(engine.memory.kept) == 4
    engine.memory.limit = engine.memory.kept[-1].bytes * 2 + 100
    run(engine, [Asked(ids("e" * 30))])
    assert len(engine.memory.kept) == 2 and engine.memory.kept[-1].ids[0] == ids("e")[0]


def test_a_window_writes_what_waits_together():
    writer = Writer("t5", opened("t5"))
    window = TextWindow(writer)
    options = Options(max_new_tokens=8)
    asked = [Asked(ids(text), options) for text in PROMPTS[:3]] + [Asked(ids("b"), Options(max_new_tokens=3))]
    for one in asked:
        window.admit(one.job)
    assert window.turn() == 3 and window.turn() == 1 and not window.busy
    expected = [writer.write([one.prompt], one.options)[0][0] for one in asked]
    assert [one.texts.get(0, "") for one in asked] == [one.text for one in expected]
    assert [one.ends[0].reason for one in asked] == [one.finish_reason for one in expected]


RULES: dict[str, dict[str, Any]] = {
    "no-bigram-twice": {"no_repeat_ngram_size": 2}, "repetition": {"repetition_penalty": 1.6},
    "both": {"no_repeat_ngram_size": 1, "repetition_penalty": 1.3},
    "bad-words": {"bad_words_ids": [*([one] for one in range(90, 250)), ids("th")]},
    "suppressed": {"suppress_tokens": [5, 6, 7, 8, 9]},
    "least": {"min_new_tokens": 22}, "bias": {"sequence_bias": [[ids("z"), 8.0]]},
    "first": {"begin_suppress_tokens": list(range(100))}, "last": {"forced_eos_token_id": 1},
    "decay": {"exponential_decay_length_penalty": (3, 1.5)}, "normalized": {"renormalize_logits": True}}


@pytest.mark.parametrize("sampled", [False, True], ids=["likeliest", "sampled"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_models_own_rules_hold_as_in_generate(rules, sampled):
    """Prompts of uneven length, written together; each as `llmkit generate` writes it alone."""
    one = opened("llama")
    before = one.model.generation_config
    try:
        one.model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0, **rules)
        writer = Writer("llama", one)
        model = WritingModel("llama", writer, Engine(one))
        more = {"temperature": 1.2, "seed": 5} if sampled else {"temperature": 0}
        request = CompletionRequest(prompt="x", max_tokens=24, **more)
        read = [of_completion(model, request, text, Limits()) for text in PROMPTS]
        asked = [Asked(one.ids, one.wish.options, one.wish.choosing, one.seed, wish=one.wish) for one in read]
        run(Engine(one), asked, 1)
        expected = [writer.write([each.ids], each.wish.options)[0][0] for each in read]
        assert [each.texts[0] for each in asked] == [said(letters(), list(each.ids)) for each in expected]
        one.model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
        free = [writer.write([each.ids], each.wish.options)[0][0] for each in read]
        assert sampled or (free == expected) is ("renormalize_logits" in rules)
    finally:
        one.model.generation_config = before


def test_a_job_without_rules_has_none():
    one = opened("llama")
    made = of_completion(WritingModel("llama", Writer("llama", one), Engine(one)), CompletionRequest(prompt="x"), "a",
                         Limits())
    assert made.wish.rules is None


@pytest.mark.parametrize("when", ["made", "called"])
def test_a_rule_that_fails_ends_its_text_and_leaves_its_place(when):
    """As its first token is chosen, or before: nobody waits for ever, and others are written after it."""
    def rules() -> Any:
        if when == "made":
            raise ValueError("no such token")
        return lambda ids, scores: scores[:, 10**6]

    engine = engine_of("llama")
    asked = Asked(ids("a"), Options(max_new_tokens=4, num_return_sequences=2))
    asked.wish = Wish(asked.options, asked.choosing, frozenset({1}), rules=rules)
    job = asked.job
    engine.admit(job)
    with pytest.raises((ValueError, IndexError)) as error:
        engine.turn()
    engine.fail(error.value)
    assert ({number: end.reason for number, end in asked.ends.items()}, job.left) == ({0: "error", 1: "error"}, 0)
    (other,) = run(engine, [Asked(ids("b"))])
    assert other.ends[0].reason in ("stop", "length")


# ---- a GPU's memory ends ----


class Short:
    """Lets an engine's forward pass fail where more rows are written together than there is room for."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, most: int, word: str = "_forward") -> None:
        self.failed = 0
        usual = getattr(engine, word)

        def forward(*given: Any) -> Any:
            count = len(given[0]) if word == "_forward" else len(engine.rows) + 1
            if count > most:
                if word == "_forward":  # half of the layers have written already
                    engine.table.begin_step()
                self.failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return usual(*given)

        monkeypatch.setattr(engine, word, forward)


@pytest.mark.parametrize("word", ["_forward", "_read"])
def test_where_memory_ends_the_text_that_came_last_ends_and_the_others_go_on(word, monkeypatch, caplog):
    engine = engine_of("llama")
    prompts = [ids(text) for text in PROMPTS[:4]]
    expected = [plain(opened("llama").model, prompt, 24) for prompt in prompts]
    short = Short(engine, monkeypatch, 3, word)
    asked = run(engine, [Asked(prompt) for prompt in prompts], 1)
    assert short.failed
    for one, row in zip(asked[:3], expected):
        assert one.texts[0] == said(letters(), row)
        assert one.ends[0].error is None
    assert isinstance(asked[3].ends[0].error, DeviceFullError)
    assert told(asked[3].ends[0].error).status == 503
    assert "a GPU's memory ended: a text ends with an error, and the others go on" in caplog.text


def test_what_ended_texts_left_is_forgotten_first(monkeypatch):
    engine = engine_of("llama")
    long = ids(PROMPTS[3])
    run(engine, [Asked(long)])
    assert engine.memory.kept
    short = Short(engine, monkeypatch, 0, "_read")
    usual = engine._give_way

    def give_way(reading):
        usual(reading)
        monkeypatch.undo()  # now there is room

    monkeypatch.setattr(engine, "_give_way", give_way)
    (one,) = run(engine, [Asked(long)])
    assert (short.failed, one.ends[0].error) == (1, None)
    assert one.texts[0] == said(letters(), plain(opened("llama").model, long, 24))
