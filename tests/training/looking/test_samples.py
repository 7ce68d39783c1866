"""What a model says of a few rows: in runs of four objectives, and by hand for what they are made of."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, tiny, write_rows

from llmkit import recipe as recipes
from llmkit.backbones.kernels.chunked_loss import Logits
from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.shared import showing
from llmkit.recipe import registry
from llmkit.tasks.base import Encoded
from llmkit.training.fit import fit
from llmkit.training.looking import drawing, samples

TEXTS = ["the cat sat on the mat .", "a dog ran ."]


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizers.train(TEXTS * 20, "wordpiece", 100)


@pytest.mark.parametrize(("objective", "family", "options", "column"), [
    ("masked_lm", "bert", {}, "text, and the guess at each hidden word"),
    ("causal_lm", "gpt2", {}, "the model goes on"),
    ("replaced_token", "electra", {}, "text with replaced words"),
    ("adversarial", "gpt2", {"sample_length": 8, "samples": 8, "discriminator_config": {
        "hidden_size": 32, "num_attention_heads": 2}}, "the generator writes"),
])
def test_a_run_shows_rows_before_and_after(
    objective: str, family: str, options: dict[str, Any], column: str, text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("all_of", "curves_of"):
        monkeypatch.setattr(drawing, name, lambda folder: None)
    recipe = tiny(family, text, tmp_path / "run", figures=True, max_steps=1)
    recipe["data"]["validation"] = 0.1
    fit(recipe | {"objective": {"name": objective, **options}})
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert all(row[column] for line in lines for row in line["rows"])
    assert len(lines[0]["rows"]) == 4


def test_hidden_words_stand_with_the_guess_at_each(words: Any) -> None:
    ids = torch.tensor([words(TEXTS[0])["input_ids"]])
    labels = torch.full_like(ids, -100)
    labels[0, 2], labels[0, 6] = ids[0, 2], ids[0, 6]
    dog, mat = words.convert_tokens_to_ids(["dog", "mat"])
    seen = ids.clone()
    seen[labels != -100] = words.mask_token_id
    logits = torch.full((2, len(words)), -1e9)
    logits[0, dog], logits[1, mat] = 0.0, 0.0
    (row,) = showing.guessed(Logits(logits, labels[labels != -100]), seen, labels, {"input_ids": seen}, words)
    (parts,) = row.values()
    assert [part for part in parts if part[1]] == [["cat", "wrong", "dog 100%"], ["mat", "right", "100%"]]
    assert "".join(part[0] for part in parts) == words.decode(ids[0].tolist())


def test_padding_is_not_shown(words: Any) -> None:
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    assert showing.rows_of(ids, {"input_ids": ids, "documents": torch.tensor([[0, 0, 0, -1], [0, 0, -1, -1]])}) == [
        [1, 2, 3], [4, 5]]
    assert showing.lengths({"input_ids": ids, "attention_mask": (ids > 0).long()}) == [3, 2]
    assert showing.lengths({"input_ids": ids}) == [4, 4]


def test_what_has_to_be_written_stands_beside_what_is_read(words: Any) -> None:
    read = torch.tensor([words("the cat", add_special_tokens=False)["input_ids"]])
    sat, on = words.convert_tokens_to_ids(["sat", "on"])
    logits = torch.full((2, len(words)), -1e9)
    logits[0, sat], logits[1, sat] = 0.0, 0.0
    batch = {"input_ids": read, "labels": torch.tensor([[sat, on, -100]])}
    (row,) = showing.written(Logits(logits, torch.tensor([sat, on])), batch, words)
    assert row == {"reads": "the cat", "has to write, and the guess at each token": [
        ["sat", "right", "100%"], [" ", ""], ["on", "wrong", "sat 100%"]]}


def test_neighbours_are_the_nearest_others() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [-1.0, 0.0]])
    first, *_ = showing.neighbours(vectors, ["a", "b", "c", "d"])
    unit = np.array([1.0, 0.1]) / np.sqrt(1.01)
    assert first == {"text": "a", "nearest of the others": [f"{unit[0]:.2f}  b", "0.00  c", "-1.00  d"]}


def test_pairs_are_told_in_words(words: Any) -> None:
    batch = {"input_ids": torch.tensor([words(TEXTS[1], add_special_tokens=False)["input_ids"]])}
    assert showing.pairs_told([(1, 0)], batch, words, showing.PAIRS["order"]) == [
        {"pair": words.decode(batch["input_ids"][0].tolist()), "the model says": "swapped", "it is": "in their order"}]


def test_examples_come_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_ROWS", 3)
    features = [{"input_ids": np.zeros(2), "of": np.array([owner])} for owner in (0, 1, 1, 2, 2)]
    few = samples.first_of(Encoded(features, [{"text": t} for t in "xyz"]), 3)
    assert [row["text"] for row in few.rows] == ["x", "y"]
    assert few.owners == [0, 1, 1]


def test_tagged_words_stand_with_their_tags() -> None:
    assert samples.beside({"tokens": ["the", "cat", "ran"], "tags": ["O", "B", "O"]}, {"tags": ["O", "B", "B"]}) == {
        "text, and the tag of each word": [["the", "", "O"], [" ", ""], ["cat", "right", "B"], [" ", ""],
                                           ["ran", "wrong", "B, is O"], [" ", ""]]}
    assert samples.beside({"text": "x" * 500, "label": 1, "other": None}, {"score": 0.5}) == {
        "text": f"{'x' * 400}…", "label": 1, "the model says: score": 0.5}


LEARNED = [(kind, name) for kind in ("objectives", "tasks") for name in registry.names(kind)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), LEARNED, ids=[name for _, name in LEARNED])
def test_whatever_is_learned_shows_rows(
    kind: str, name: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    for drawn in ("all_of", "curves_of"):
        monkeypatch.setattr(drawing, drawn, lambda folder: None)
    caplog.set_level(logging.WARNING, logger="llmkit")
    found = registry.find(kind, name)  # type: ignore[arg-type]
    family = next(one for one in FAMILIES if recipes.fits(found(), FAMILIES[one]))
    data = text if kind == "objectives" else write_rows(
        tmp_path / "rows.jsonl", [{**row, "n": i} for i in range(8) for row in found.example])
    recipe = tiny(family, data, tmp_path / "run", figures=True, max_steps=1)
    del recipe["objective"]
    recipe["data"] |= {"validation": 0.25, "max_length": 48}
    recipe["tokenizer"]["train"]["vocab_size"] = 500
    fit({**recipe, "objective" if kind == "objectives" else "task": {"name": name}})
    assert not [record for record in caplog.records if "picture" in record.getMessage()]
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    shown = [line for line in lines if line["event"] == "samples"]
    assert [line["step"] for line in shown] == [0, 1]
    assert all(row for line in shown for row in line["rows"])


def test_rows_are_shown_though_states_of_frozen_layers_are_kept_beside_them(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    for drawn in ("all_of", "curves_of"):
        monkeypatch.setattr(drawing, drawn, lambda folder: None)
    caplog.set_level(logging.WARNING, logger="llmkit")
    tree = tiny("bert", labelled, tmp_path / "base", still=True, max_steps=1)
    del tree["objective"]
    fit({**tree, "task": "classification"})
    more = tiny("bert", labelled, tmp_path / "run", figures=True, max_steps=1, cache_frozen=True)
    fit({"name": "head", "task": "classification", "tuning": {"method": "head"}, "training": more["training"],
         "backbone": {"pretrained": str(tmp_path / "base")}, "output_dir": str(tmp_path / "run"),
         "data": {"train": str(labelled), "validation": 0.2, "max_length": 32}})
    assert not [record for record in caplog.records if "picture" in record.getMessage()]
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert all(row for line in lines if line["event"] == "samples" for row in line["rows"])
