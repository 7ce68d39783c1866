"""N: a model whose weights hold NaN says nothing: status 5, and no line of JSON that is none."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from safetensors.torch import load_file, save_file

from llmkit.cli import main
from llmkit.inference.embedding import Embedder
from llmkit.system.errors import NumberError
from llmkit.system.finite import Watching, check_all, check_scores
from reliability import runs

pytestmark = [pytest.mark.reliability, pytest.mark.quick]

SAYS = "numbers stopped being finite"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path, labelled: Path, asked: Path) -> dict[str, Path]:
    """Runs of two steps: a decoder, an encoder, a classifier and one that answers, with rows for each."""
    folder = tmp_path_factory.mktemp("finite")
    found: dict[str, Path] = {}
    for name, family, task, data in (("gpt2", "gpt2", None, text), ("bert", "bert", None, text),
                                     ("label", "bert", "classification", labelled), ("t5", "t5", "instruction", asked)):
        tree = tiny(family, data, folder / name, max_steps=2)
        if task:
            del tree["objective"]
            tree["task"] = task
        assert main(["pretrain", str(runs.write(tree))]) == 0
        found[name] = folder / name
    return found


@pytest.fixture
def spoiled(trained: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run with some of its weights not finite."""
    def make(name: str, value: float = math.nan, part: str = "", rows: slice = slice(None)) -> Path:
        shutil.copytree(trained[name], tmp_path / name)
        path = tmp_path / name / "model" / "model.safetensors"
        weights = load_file(path)
        which = next(key for key in weights if part in key and weights[key].dim() == 2)
        weights[which][rows] = value
        save_file(weights, path, {"format": "pt"})
        return tmp_path / name

    return make


@pytest.mark.parametrize(("name", "format"), [("gpt2", "safetensors"), ("label", "safetensors"), ("bert", "word2vec")])
@pytest.mark.parametrize("value", [math.nan, -math.inf], ids=str)
def test_it_is_not_given_away(
        name: str, format: str, value: float, spoiled: Callable[..., Path], tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = said(capsys, "export", spoiled(name, value), "--to", tmp_path / "out", "--format", format)
    assert status == 5
    assert "holds NaN or infinity; " in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize(("name", "part"), [("label", "query.weight"), ("label", "key.weight"), ("gpt2", "c_attn")])
def test_what_attention_makes_ordinary_answers_of_is_found_in_the_weights(
        name: str, part: str, value: float, spoiled: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """torch's attention gives 0 for a row of NaN scores: all answers were alike, with 0."""
    run = spoiled(name, value, part)
    command = ("classify", "the cat", "--model") if name == "label" else (
        "generate", "the cat", "--max-new-tokens", "2", "--model")
    status, out, error = said(capsys, *command, run)
    assert (status, out) == (5, "")
    assert f"{part}" in error.splitlines()[-1] and "holds NaN or infinity; " in error


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_evaluate_ends_with_5(
    value: float, json_: list[str], spoiled: Callable[..., Path], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(capsys, "evaluate", spoiled("gpt2", value, "wte", slice(5, 40)), "--data", text, *json_)
    assert (status, out) == (5, "") and SAYS in err.splitlines()[-1]


def test_evaluate_of_a_classifier_ends_with_5(
    spoiled: Callable[..., Path], labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(capsys, "evaluate", spoiled("label"), "--data", labelled, "--json")
    assert (status, out) == (5, "") and SAYS in err


@pytest.mark.parametrize("options", [
    [], ["--json"], ["--temperature", "1", "--seed", "1"], ["--top-p", "0.5", "--seed", "1"], ["--num-beams", "2"],
    ["--num-return-sequences", "2", "--temperature", "1", "--json"]], ids=" ".join)
def test_generate_ends_with_5(
    options: list[str], spoiled: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(
        capsys, "generate", "the cat", "--model", spoiled("gpt2"), "--max-new-tokens", "3", *options)
    assert (status, out.strip()) == (5, "") and SAYS in err.splitlines()[-1]


@pytest.mark.parametrize("words", [
    ("bert", "generate", "the [MASK] sat", "--model"), ("t5", "generate", "the cat", "--model", "--max-new-tokens=3"),
    ("label", "classify", "the cat", "--model"), ("label", "classify", "the cat", "--model", "--json"),
    ("bert", "classify", "the cat", "--model", "--labels=a,b")], ids=" ".join)
def test_so_does_whatever_asks_it(
    words: tuple[str, ...], spoiled: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name, verb, text, option, *more = words
    status, out, err = said(capsys, verb, text, option, spoiled(name), *more)
    assert (status, out.strip()) == (5, "") and SAYS in err.splitlines()[-1]


@pytest.mark.parametrize("name", ["label", "t5"])
def test_predict_writes_no_line(
    name: str, spoiled: Callable[..., Path], labelled: Path, asked: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "said.jsonl"
    status, _, err = said(capsys, "predict", spoiled(name), labelled if name == "label" else asked, "-o", out)
    assert status == 5 and SAYS in err and not out.exists()


def test_training_from_it_ends_with_5(
    spoiled: Callable[..., Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny("gpt2", text, tmp_path / "more", max_steps=4, save_steps=2)
    tree["backbone"] = {"pretrained": str(spoiled("gpt2"))}
    del tree["tokenizer"]
    status, _, err = said(capsys, "pretrain", runs.write(tree))
    assert status == 5 and "finite" in err.splitlines()[-1]
    assert not (tmp_path / "more" / "model").exists()
    assert "NaN" not in (tmp_path / "more" / "metrics.jsonl").read_text()


def test_a_model_that_is_whole_is_measured_as_before(
    trained: dict[str, Path], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = said(capsys, "evaluate", trained["gpt2"], "--data", text, "--json")
    found = json.loads(out)["metrics"]
    assert status == 0 and math.isclose(found["perplexity"], math.exp(found["loss"]))


def test_no_vector_is_made_of_it(spoiled: Callable[..., Path]) -> None:
    with pytest.raises(NumberError, match=SAYS):
        Embedder.open(spoiled("bert", part="word_embeddings"))


def test_no_vector_is_made_of_what_stops_being_finite(trained: dict[str, Path]) -> None:
    embedder = Embedder.open(trained["bert"])
    model: Any = embedder.opened.model
    model.get_input_embeddings().weight.data[:] = math.nan
    with pytest.raises(NumberError, match=SAYS):
        embedder.embed(["the cat"])


# ---- the checks ----

FINE = [[0.5, -math.inf], [-1e30, 2.0]]


@pytest.mark.parametrize(("scores", "fine"), [
    (FINE, True), ([[0.0, math.nan]], False), ([[0.0, math.inf]], False), ([[-math.inf, -math.inf]], False),
    ([[0.0, 1.0], [math.nan, 0.0]], False)], ids=str)
def test_scores_may_forbid_but_not_be_nothing(scores: Any, fine: bool) -> None:
    given = torch.tensor(scores)
    if fine:
        check_scores(given, "x")
        assert Watching("x")(given, given) is given
        return
    for check in (check_scores, lambda one, what: Watching(what)(one, one)):
        with pytest.raises(NumberError, match=f"^x: the model's {SAYS}") as caught:
            check(given, "x")
        assert caught.value.status == 5


@pytest.mark.parametrize(("value", "fine"), [
    ({"a": [1.0, (2, "nan")], "b": None}, True), ([], True), (10**400, True), ("NaN", True), (math.nan, False),
    ({"a": {"b": [0.0, -math.inf]}}, False), ([(1, math.inf)], False)], ids=str)
def test_numbers_are_looked_for_in_all_that_is_said(value: Any, fine: bool) -> None:
    if fine:
        check_all(value, "x")
    else:
        with pytest.raises(NumberError, match=SAYS):
            check_all(value, "x")
