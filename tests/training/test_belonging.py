"""What a checkpoint belongs to: recipe, base, tokenizer and versions, compared without training."""

import hashlib
import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from llmkit import recipe as recipes
from llmkit.data import tokenizer as tokenizers
from llmkit.models.base import Base
from llmkit.recipe import Recipe
from llmkit.system.errors import CheckpointError
from llmkit.training.folder import belonging
from llmkit.training.folder.belonging import (
    BASE,
    TOKENIZER,
    check_foundation,
    check_recipe,
    foundation,
    hashes,
    in_words,
    unlike,
    versions,
    vocabulary,
)
from llmkit.training.folder.run_folder import Checkpoint, sealed, verify

TREE: dict[str, Any] = {
    "name": "run", "backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {}}, "objective": "masked_lm",
    "data": {"train": "a.txt"}, "training": {"max_steps": 8, "lr_scheduler_type": "constant"}}
PLUG_INS = {"objective": {"name": "masked_lm"}, "tuning": {"method": "full"}}
X, Y = (hashlib.sha256(text).hexdigest() for text in (b"x", b"y"))


def recipe(**more: Any) -> Recipe:
    return recipes.load({**TREE, **more})


@pytest.fixture
def start(tmp_path):
    """`start(recipe={…})`: a checkpoint whose manifest says so."""
    def make(**said: Any) -> Checkpoint:
        manifest = {"step": 4, "state": {}, "data": {}, "processes": 1, "files": {}, **said}
        (tmp_path / "MANIFEST.json").write_text(sealed(manifest))
        return verify(tmp_path)

    return make


# ---- the recipe ----


@pytest.mark.parametrize(("theirs", "what"), [
    ({"seed": 7}, r"\(seed is 42, there 7\)"),
    ({"objective": "next_sentence"}, r"\(objective\.name is masked_lm, there next_sentence\)"),
    ({"objective": {"name": "masked_lm", "mlm_probability": 0.3}}, r"objective\.mlm_probability is 0\.15, there 0\.3"),
    ({"tuning": {"method": "lora"}}, r"\(tuning\.method is full, there lora\)"),
    ({"data": {"train": "b.txt"}}, r"data\.train"),
    ({"backbone": {"family": "bert", "size": "mini"}}, r"backbone\.size is tiny, there mini"),
    ({"tokenizer": {"pretrained": "tok"}}, r"tokenizer\.pretrained is None, there tok"),
    ({"training": {"max_steps": 8, "lr_scheduler_type": "linear"}}, "lr_scheduler_type is constant, there linear"),
])
def test_another_recipe_is_refused_with_what_differs(start, theirs, what):
    checkpoint = start(recipe=recipes.tree_of(recipe(**theirs)))
    with pytest.raises(CheckpointError, match=rf"is of another recipe's run .*{what}"):
        check_recipe(checkpoint, recipe(), recipe())


@pytest.mark.parametrize("theirs", [
    {}, {"name": "other"}, {"output_dir": "elsewhere"}, {"training": {**TREE["training"], "save_steps": 3}},
    {"training": {**TREE["training"], "max_steps": 4}}])
def test_what_may_differ_may_differ_here_too(start, theirs):
    check_recipe(start(recipe=recipes.tree_of(recipe(**theirs))), recipe(), recipe())


def test_a_field_that_an_older_version_did_not_know_has_its_default(start):
    tree = recipes.tree_of(recipe())
    del tree["training"]["weight_decay"], tree["objective"]["mlm_probability"]
    check_recipe(start(recipe=tree), recipe(), recipe())


def test_a_checkpoint_that_says_no_recipe_is_of_an_older_version(start):
    check_recipe(start(), recipe(), recipe())


@pytest.mark.parametrize(("tree", "what"), [
    ({}, r"objective\.name is masked_lm, there None"),
    ({"objective": ["masked_lm"], "tuning": {"method": "full"}}, r"there \['masked_lm'\]"),
    (PLUG_INS, "its recipe can't be read"),
    ({**TREE, **PLUG_INS, "sneed": 1}, "its recipe can't be read: .*sneed"),
])
def test_what_is_no_recipe_is_told_and_ends_nothing_else(start, tree, what):
    with pytest.raises(CheckpointError, match=what):
        check_recipe(start(recipe=tree), recipe(), recipe())


@pytest.mark.parametrize("name", ["recipe", "versions", "base", "tokenizer"])
@pytest.mark.parametrize("value", ["x", [1], 3, None])
def test_a_manifest_of_another_form_is_not_believed(start, name, value):
    with pytest.raises(CheckpointError, match="isn't one that llmkit writes"):
        start(**{name: value})


def test_no_module_is_imported_that_only_a_checkpoint_names(start, tmp_path, monkeypatch):
    (tmp_path / "of_a_stranger.py").write_text("raise SystemExit('it was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    tree = recipes.tree_of(recipe())
    for block, key in (("objective", "name"), ("tuning", "method")):
        checkpoint = start(recipe={**tree, block: {key: "of_a_stranger.objective"}})
        with pytest.raises(CheckpointError, match=rf"{block}\.{key} is \w+, there of_a_stranger\.objective"):
            check_recipe(checkpoint, recipe(), recipe())
    assert "of_a_stranger" not in sys.modules


def test_differences_are_told_by_field_ours_first():
    assert in_words({"seed": (7, 42), "training.max_steps": (3, None)}) == (
        "seed is 7, there 42; training.max_steps is 3, there None")


def test_a_greater_length_and_what_was_left_open_are_no_differences():
    auto = recipe(training={**TREE["training"], "micro_batch_size": "auto"})
    differ = {"training.max_steps": (8, 4), "training.micro_batch_size": (8, 4), "training.compile": (False, "auto")}
    assert unlike(differ, auto, auto) == {}
    fixed = recipe(training={**TREE["training"], "micro_batch_size": 8})
    assert unlike(differ, fixed, fixed) == {"training.max_steps": (8, 4), "training.micro_batch_size": (8, 4)}
    assert unlike({"training.max_steps": (4, 8)}, auto, auto) == {"training.max_steps": (4, 8)}


# ---- base, tokenizer, versions ----


def test_files_of_a_base_are_hashed_by_their_names(tmp_path):
    for name in ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt",
                 "trainer_state.json", "1_Pooling/config.json", "modules.json", "README.md", "tokenizer.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert hashes(tmp_path, BASE) == dict.fromkeys(
        ("1_Pooling/config.json", "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
         "modules.json"), X)
    assert hashes(tmp_path, TOKENIZER) == {"tokenizer.json": X}
    assert hashes(tmp_path / "tokenizer.json", TOKENIZER) == {"tokenizer.json": X}
    (tmp_path / "merges.txt").write_bytes(b"y")
    (tmp_path / "chat_template.jinja").write_bytes(b"y")
    assert hashes(tmp_path, TOKENIZER) == {"chat_template.jinja": Y, "merges.txt": Y, "tokenizer.json": X}


def test_a_vocabulary_is_its_tokens_their_ids_and_the_merges():
    one = tokenizers.train(["the cat sat on the mat"], "bpe", 300)
    same = tokenizers.train(["the cat sat on the mat"], "bpe", 300)
    other = tokenizers.train(["the dog ran to the sea, and the sun sank"], "bpe", 300)
    assert vocabulary(one) == vocabulary(same) != vocabulary(other)
    more = tokenizers.train(["the cat sat on the mat"], "bpe", 300)
    more.add_tokens(["<extra>"])
    assert vocabulary(more) != vocabulary(one)


def said(**more: Any) -> dict[str, Any]:
    return {"versions": {"torch": "2.11.0", "transformers": "5.1.0"}, **more}


@pytest.mark.parametrize(("kind", "then", "now", "what"), [
    ("base", {"config.json": X, "model.safetensors": X}, {"config.json": X, "model.safetensors": Y},
     r"backbone\.pretrained: m has changed since it was saved \(model\.safetensors\)"),
    ("base", {"config.json": X}, {"config.json": Y}, r"\(config\.json\)"),
    ("base", {"a.safetensors": X, "config.json": X}, {"b.safetensors": X, "config.json": X},
     r"\(a\.safetensors, b\.safetensors\)"),
    ("base", {"commit": "a" * 40}, {"commit": "b" * 40}, r"\(commit\)"),
    ("tokenizer", {"tokenizer.json": X}, {"tokenizer.json": Y}, r"tokenizer: m has changed .*\(tokenizer\.json\)"),
    ("tokenizer", {"tokenizer.json": X}, {"tokenizer.json": X, "added_tokens.json": Y}, r"\(added_tokens\.json\)"),
    ("tokenizer", {"its vocabulary": X}, {"its vocabulary": Y}, r"\(its vocabulary\)")])
def test_what_changed_below_a_checkpoint_is_named_and_refused(start, kind, then, now, what):
    asked = replace(recipe(), backbone=replace(recipe().backbone, pretrained="m"), tokenizer=None)
    checkpoint = start(**said(**{kind: then}))
    check_foundation(checkpoint, said(**{kind: then}), asked)
    with pytest.raises(CheckpointError, match=rf"{what}\. Put back what it was, or choose another --output-dir"):
        check_foundation(checkpoint, said(**{kind: now}), asked)


def test_other_versions_are_said_in_one_line_and_the_run_goes_on(start, caplog):
    checkpoint = start(**said())
    check_foundation(checkpoint, said(), recipe())
    assert caplog.text == ""
    check_foundation(checkpoint, {"versions": {"torch": "2.12.0", "transformers": "5.1.0", "numpy": "2.0"}}, recipe())
    assert [record.getMessage() for record in caplog.records] == [
        f"{checkpoint.folder} was saved with other versions (torch 2.12.0, then 2.11.0; numpy 2.0, then none): going "
        "on; the last digits may differ"]


def test_a_checkpoint_without_hashes_is_said_not_to_be_compared(start, caplog):
    with caplog.at_level("INFO", "llmkit"):
        check_foundation(start(), said(base={"config.json": X}), recipe())
    assert "noted no hashes of base and tokenizer; they aren't compared" in caplog.text


def test_the_versions_are_those_that_are_installed(monkeypatch):
    import torch
    import transformers

    found = versions()
    assert (found["torch"], found["transformers"]) == (torch.__version__, transformers.__version__)
    assert list(found) == ["llmkit", "torch", "transformers", "tokenizers", "accelerate", "peft", "numpy"]
    monkeypatch.setattr(belonging, "PACKAGES", ("torch", "no-such-package"))
    assert list(versions()) == ["torch"]


class Known:
    """What `foundation` asks of a settled recipe."""

    def __init__(self, asked: Recipe, base: Base | None) -> None:
        self.recipe, self.base, self.teacher = asked, base, None


def test_a_run_stands_on_the_files_of_its_base_and_tokenizer(encoder, tmp_path):
    words = tokenizers.load(encoder)
    theirs = replace(recipe(), tokenizer=None)
    found = foundation(Known(theirs, Base("m", encoder)), words)
    assert found["base"] == {name: hashlib.sha256((encoder / name).read_bytes()).hexdigest()
                             for name in ("config.json", "model.safetensors")}
    assert found["tokenizer"] == {name: hashlib.sha256((encoder / name).read_bytes()).hexdigest()
                                  for name in ("tokenizer.json", "tokenizer_config.json")}
    assert json.loads(json.dumps(found)) == found  # a manifest can hold it
    trained = foundation(Known(recipe(), None), words)
    assert "base" not in trained
    assert trained["tokenizer"] == {"its vocabulary": vocabulary(words)}
    elsewhere = replace(recipe(), tokenizer=recipes.Tokenizer(pretrained=str(encoder / "tokenizer.json")))
    assert list(foundation(Known(elsewhere, None), words)["tokenizer"]) == ["tokenizer.json"]


def test_a_commit_of_a_hub_stands_for_its_files(tmp_path):
    commit = "0123456789" * 4
    place = tmp_path / "snapshots" / commit
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    words = tokenizers.train(["a b c"], "bpe", 300)
    found = foundation(Known(replace(recipe(), tokenizer=None), Base("hub/id", place)), words)
    assert (found["base"], found["tokenizer"]) == ({"commit": commit}, {"commit": commit})
