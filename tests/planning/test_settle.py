"""Before a run: what each `auto` becomes, and what can't work is refused with what would."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import random_encoder, stories, tiny

from llmkit import recipe as recipes
from llmkit.data.memory import memory_reader
from llmkit.planning.settle import Settled, settle
from llmkit.system import machine
from llmkit.system.errors import DataError, RequestError


def settled(tree: dict[str, Any], *settings: str, processes: int = 1) -> Settled:
    return settle(recipes.load(tree, settings), processes)


@pytest.fixture
def tree(text: Path, tmp_path: Path) -> dict[str, Any]:
    """A BERT of 64 positions on the tests' text, with nothing said that could be left open."""
    made = tiny("bert", text, tmp_path / "run")
    del made["data"]["max_length"], made["training"]
    return made


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_encoder(tmp_path_factory.mktemp("encoder"), stories(40))


# ---- what auto becomes ----


def test_nothing_is_left_open(tree):
    made = settled(tree).recipe
    assert "auto" not in {str(value) for value in vars(made.training).values()}
    assert (made.data.packing, made.data.document, made.data.max_length) == ("documents", "line", 64)
    assert (made.tokenizer.train.kind, made.tokenizer.train.lowercase) == ("wordpiece", True)
    assert made.training.micro_batch_size == made.training.global_batch_size
    assert made.output_dir == tree["output_dir"]


def test_a_settled_recipe_is_settled(tree):
    once = settled(tree)
    assert settle(once.recipe).recipe == once.recipe


def test_each_choice_has_its_reason(tree):
    chosen = settled(tree).chosen
    assert set(chosen) == {"micro_batch_size", "precision", "compile"}
    assert all(len(why) > 10 for why in chosen.values())
    said = settled(tree, "training.precision=fp32", "training.compile=false", "training.micro_batch_size=8")
    assert said.chosen == {}


def test_rows_are_as_long_as_the_model_has_room_for_beside_virtual_tokens(tree):
    assert settled(tree, "tuning={method: prompt, num_virtual_tokens: 10}").recipe.data.max_length == 54
    assert settled(tree, "backbone.config.max_position_embeddings=512").recipe.data.max_length == 128


@pytest.mark.parametrize(("objective", "family", "packing"), [
    ("masked_lm", "bert", "documents"), ("masked_lm", "deberta", "blocks"), ("next_sentence", "bert", "none"),
    ("causal_lm", "gpt2", "documents"), ("denoising", "bart", "blocks")])
def test_packing_is_the_best_that_objective_and_family_can_do(tree, objective, family, packing):
    tree = {**tree, "backbone": {"family": family, "size": "tiny"}, "objective": objective}
    assert settled(tree).recipe.data.packing == packing


@pytest.mark.parametrize(("method", "pretrained", "rate", "head_rate"), [
    ("full", False, 5e-4, 5e-4), ("full", True, 5e-5, 5e-5), ("prefix", True, 1e-2, 1e-3), ("lora", True, 1e-3, 1e-3)])
def test_a_rate_is_the_methods_usual_one_and_a_new_head_bears_less(
    tree, encoder, labelled, method, pretrained, rate, head_rate,
):
    tree = {**tree, "task": "classification", "data": {"train": str(labelled)}, "tuning": {"method": method}}
    del tree["objective"]
    if pretrained:
        tree = {**tree, "backbone": {"pretrained": str(encoder)}}
        del tree["tokenizer"]
    training = settled(tree).recipe.training
    assert training.learning_rate == pytest.approx(rate)
    assert training.head_learning_rate == pytest.approx(head_rate)


def test_what_is_said_is_kept(tree):
    training = settled(tree, "training.learning_rate=0.02", "training.head_learning_rate=0.5").recipe.training
    assert (training.learning_rate, training.head_learning_rate) == (0.02, 0.5)


def test_a_familys_name_is_read_from_a_pretrained_model(tree, encoder):
    del tree["tokenizer"]
    made = settled({**tree, "backbone": {"pretrained": str(encoder)}})
    assert made.recipe.backbone.family == "bert"
    assert made.base.folder == encoder


def test_sources_of_rows_in_memory_are_taken_from_the_program(tree):
    reader = memory_reader(["the cat saw the moon ."] * 9, "memory:train")
    asked = recipes.load({**tree, "data": {"train": reader.source.source, "on_bad_row": "skip"}})
    made = settle(asked, memory={reader.source.source: reader})
    assert [one.label for one in made.train] == ["memory:train"]
    assert made.train[0].spares
    with pytest.raises(RequestError, match="run it again from Python"):
        settle(asked)


# ---- what can't work ----


@pytest.mark.parametrize(("settings", "what"), [
    (["data.packing=blocks", "objective=next_sentence"], "next_sentence makes its own rows; it can't do 'blocks'"),
    (["backbone.family=deberta", "backbone.config={}", "data.packing=documents"], "can't keep documents in a row"),
    (["data.packing=documents", "tuning.method=prompt"], "would share what is learned between them"),
    (["tuning={method: prompt, num_virtual_tokens: 63}"], "63 virtual tokens leave no room for a text in the 64"),
    (["backbone.config.max_position_embeddings=1"], "1 positions leave no room for a text"),
    (["data.max_length=65"], "65 tokens need more than the 64 positions of this bert; make it 64 or less"),
    (["training.lr_scheduler_type=linea"], "no schedule is called 'linea'. Did you mean 'linear'?"),
    (["training.lr_scheduler_type=greedy"], "no schedule is called 'greedy'"),
    (["training.metrics=[rouge]"], "an objective predicts no answers"),
    (["training.micro_batch_size=3", "training.global_batch_size=8"], "3 does not divide"),
    (["backbone.config.hidden_size=33"], "backbone.config: "),
    (["training.precision=fp16"], "fp16 needs a GPU"),
])
def test_what_cannot_work_is_refused_with_its_field(tree, settings, what):
    with pytest.raises(RequestError) as refused:
        settled(tree, *settings)
    assert what in str(refused.value)


def test_rows_are_shared_by_processes_or_refused(tree):
    made = settled(tree, "training.global_batch_size=8", processes=2)
    assert made.recipe.training.micro_batch_size == 4
    with pytest.raises(RequestError, match="can't be shared by 3"):
        settled(tree, "training.global_batch_size=8", processes=3)
    with pytest.raises(RequestError, match="8 does not divide the 4 rows of each process"):
        settled(tree, "training.global_batch_size=8", "training.micro_batch_size=8", processes=2)


def test_a_missing_file_is_told_before_a_model_is_looked_for(tree):
    with pytest.raises(DataError, match=r"nope\.txt: no such file"):
        settled({**tree, "backbone": {"pretrained": "no/such-model"}, "tokenizer": None}, "data.train=nope.txt")


def test_weights_that_no_memory_holds_are_refused_but_for_a_plan(tree, monkeypatch):
    monkeypatch.setattr(machine, "main_memory", lambda: 1000)
    with pytest.raises(RequestError, match="the weights of this model alone take"):
        settled(tree)
    assert settle(recipes.load(tree), of_any_size=True).recipe.name == tree["name"]


def test_an_adapter_is_no_model_to_start_from(tree, encoder, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(encoder)}))
    del tree["tokenizer"]
    with pytest.raises(RequestError, match="holds an adapter, not a model"):
        settled({**tree, "backbone": {"pretrained": str(tmp_path / "adapter")}})


def test_a_model_of_another_family_is_named(tree, encoder):
    del tree["tokenizer"]
    with pytest.raises(RequestError, match="is a bert, not a roberta"):
        settled({**tree, "backbone": {"pretrained": str(encoder), "family": "roberta"}})


def test_readers_are_those_of_training_and_of_what_is_held_out(tree, text):
    made = settled({**tree, "data": {"train": [str(text), str(text)], "validation": [str(text)]}})
    assert len(made.readers) == 3
    assert replace(made, validation=0.1).readers == list(made.train)


def test_many_files_are_said_before_they_are_read(tree, tmp_path, monkeypatch, caplog):
    for number in range(4):
        (tmp_path / f"many-{number}.txt").write_text("the cat saw the moon .\n")
    monkeypatch.setattr("llmkit.planning.settle.MANY", 4)
    tree["data"]["train"] = str(tmp_path / "many-*.txt")
    with caplog.at_level("INFO", "llmkit"):
        settled(tree)
    assert f"{tmp_path}/many-*.txt: 4 files, 0.092 kB: each is opened and hashed before it is read" in caplog.text
    caplog.clear()
    monkeypatch.setattr("llmkit.planning.settle.MANY", 5)
    settled(tree)
    assert "files" not in caplog.text
