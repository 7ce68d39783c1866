"""A GPU whose memory ends while texts are written, embedded or scored: fewer at once, and the same is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_encoder, stories, tiny

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.inference.embedding import Embedder
from llmkit.inference.generate import Options, generate_file
from llmkit.inference.scoring import Scorer
from llmkit.inference.writing.chat import Chat
from llmkit.inference.writing.writer import Writer
from llmkit.models import open_model
from llmkit.prompting.base import Prompt, Question
from llmkit.recipe import registry
from llmkit.system.devices import AtOnce
from llmkit.system.errors import DeviceFullError
from llmkit.training.fit import fit

FULL = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1 is free."


@pytest.fixture(scope="module")
def writer(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer") / "run"
    fit(recipes.load(tiny("gpt2", text, folder, max_steps=1)))
    return folder


def fails(owner: Any, name: str, most: int, size: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a function fail where `size` of what it is given is more than fits; all sizes, in order."""
    usual, tried = getattr(owner, name), list[int]()

    def call(*given: Any, **options: Any) -> Any:
        tried.append(size(*given, **options))
        if tried[-1] > most:
            raise torch.OutOfMemoryError(FULL)
        return usual(*given, **options)

    monkeypatch.setattr(owner, name, call)
    return tried


def test_half_goes_together_until_it_fits_and_the_order_stays(caplog: pytest.LogCaptureFixture) -> None:
    tried = list[int]()

    def work(some: Any) -> list[int]:
        tried.append(len(some))
        if len(some) > 3:
            raise RuntimeError("CUDA error: out of memory")
        return [one * one for one in some]

    room = AtOnce("prompts")
    assert room.do(range(8), work) == [0, 1, 4, 9, 16, 25, 36, 49]
    assert room.do(range(3), work) == [0, 1, 4]
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert caplog.messages == ["8 prompts together don't fit in this device's memory; going on with 4",
                               "4 prompts together don't fit in this device's memory; going on with 2"]


def test_what_is_too_much_alone_is_an_error_and_mistakes_are_mistakes() -> None:
    def full(some: Any) -> Any:
        raise torch.OutOfMemoryError(FULL)

    def wrong(some: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(torch.OutOfMemoryError):
        AtOnce("prompts").do([1, 2], full)
    with pytest.raises(RuntimeError, match="mat1"):
        AtOnce("prompts").do([1, 2], wrong)


def test_a_file_of_prompts_is_answered_in_smaller_batches(
    writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(" ".join(one.split()[:4]) for one in stories(7, 3)) + "\n")
    options = Options(max_new_tokens=4, temperature=1.0, seed=5)
    right = [one.completions[0].text for one in generate_file(str(path), str(writer), options)]
    tried = fails(Writer, "_write_together", 2, lambda self, prompts, *rest: len(prompts), monkeypatch)
    assert [one.completions[0].text for one in generate_file(str(path), str(writer), options)] == right
    assert tried == [7, 3, 1, 1, 1, 1, 1, 1, 1]


def test_a_text_that_has_no_room_is_told_with_what_helps(
    writer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails(Writer, "_write_together", 0, lambda self, prompts, *rest: len(prompts), monkeypatch)
    assert main(["generate", "the cat", "--model", str(writer), "--max-new-tokens", "4"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("llmkit: error: this device's memory has no room for 1 text of ")
    assert "Ask for fewer together (batch_size, num_return_sequences, num_beams), shorter ones (max_new_tokens)" in said


def test_a_conversation_goes_on_after_it(writer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Chat(Writer.open(str(writer)), options=Options(max_new_tokens=3))
    monkeypatch.setattr(Chat, "_ids", lambda self, messages: [5 + len(one["content"]) for one in messages])
    with monkeypatch.context() as patch:
        fails(Writer, "_write_together", 0, lambda self, prompts, *rest: len(prompts), patch)
        with pytest.raises(DeviceFullError):
            talk.say("the cat")
    made = talk.say("a dog")
    assert made.tokens and [one["content"] for one in talk.messages if one["role"] == "user"] == ["a dog"]


def test_texts_are_embedded_in_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, texts = Embedder.open(random_encoder(tmp_path / "encoder", stories(40))), stories(9, 4)
    right = encoder.embed(texts)
    tried = fails(Embedder, "_vectors", 2, lambda self, ids: len(ids), monkeypatch)
    assert abs(encoder.embed(texts) - right).max() < 1e-5
    assert tried[:3] == [9, 4, 2] and set(tried[2:]) <= {1, 2}


def test_answers_are_scored_in_smaller_passes(
    writer: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    questions = [Question(Prompt(" ".join(one.split()[:6])), (" the cat", " a dog")) for one in stories(9, 2)]

    def scored() -> list[float]:
        scorer = Scorer(open_model(writer), registry.find("backbones", "gpt2"), at_once=512)
        return [answer.logprob for some in scorer.score(questions) for answer in some]

    right = scored()
    fails(Scorer, "_run", 150, lambda self, ids, *rest, **more: ids.numel(), monkeypatch)
    assert scored() == pytest.approx(right, abs=1e-4)
    assert "passes over 512 positions don't fit in this device's memory; going on with 256" in caplog.text


@pytest.mark.parametrize(("words", "said"), [
    (["embed"], "take a smaller model, fewer texts at once"), (["pretrain"], "training.micro_batch_size or data.")])
def test_what_else_has_no_room_is_told_by_what_the_command_has(words: list[str], said: str) -> None:
    from llmkit.cli import _memory

    told = _memory(torch.OutOfMemoryError(FULL), words)
    assert told.startswith("20.00 GiB more were asked for on a GPU of 23.69 GiB; ") and said in told
    assert told.endswith("; ACCELERATE_USE_CPU=1 computes on the CPU")
    assert "ACCELERATE_USE_CPU" not in _memory(RuntimeError("can't allocate memory"), words)


def test_lines_of_answers_are_json_still(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("the cat\na dog\n")
    fails(Writer, "_write_together", 1, lambda self, prompts, *rest: len(prompts), monkeypatch)
    assert main(["generate", "--input", str(path), "--model", str(writer), "--max-new-tokens", "2"]) == 0
    read = capsys.readouterr()
    assert [json.loads(line)["prompt"] for line in read.out.splitlines()] == ["the cat", "a dog"]
    assert "2 prompts together don't fit in this device's memory; going on with 1" in read.err
