"""`base: RECIPE`: what a recipe says goes over what its base says, field by field, and errors know whose line it is."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from llmkit import recipe as recipes
from llmkit.system.errors import RequestError

BASE = {
    "name": "below", "seed": 7, "backbone": {"family": "bert", "size": "tiny", "config": {"hidden_size": 32}},
    "tokenizer": {"train": {"vocab_size": 300}}, "data": {"train": ["a.txt", "b.txt"], "max_length": 64},
    "objective": {"name": "masked_lm", "mlm_probability": 0.3}, "training": {"max_steps": 10, "learning_rate": 0.01},
    "output_dir": "runs/of-the-base"}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a recipe over BASE, and loads it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "below.yaml").write_text(yaml.safe_dump(BASE))

    def write(text: str, *settings: str) -> recipes.Recipe:
        (tmp_path / "kept" / "above.yaml").write_text(f"base: below.yaml\n{text}")
        return recipes.load(tmp_path / "kept" / "above.yaml", settings)

    return write


def test_a_recipe_that_says_nothing_is_its_base_but_for_name_and_folder(load) -> None:
    found = load("")
    expected = recipes.load({key: value for key, value in BASE.items() if key not in ("name", "output_dir")})
    assert (found.name, found.output_dir) == ("above", None)
    assert recipes.tree_of(found) == {**recipes.tree_of(expected), "name": "above"}


def test_mappings_merge_by_field_and_lists_are_replaced(load) -> None:
    found = load("backbone: {config: {num_hidden_layers: 3}}\ndata: {train: [c.txt]}\nname: mine\n")
    assert found.backbone.config == {"hidden_size": 32, "num_hidden_layers": 3}
    assert (found.backbone.family, found.backbone.size, found.seed, found.name) == ("bert", "tiny", 7, "mine")
    assert ([source.source for source in found.data.train], found.data.max_length) == (["c.txt"], 64)


@pytest.mark.parametrize("train", ["c.txt", "{source: c.txt}"])
def test_a_source_replaces_those_of_the_base(load, train: str) -> None:
    assert [source.source for source in load(f"data: {{train: {train}}}").data.train] == ["c.txt"]


@pytest.mark.parametrize(("text", "expected"), [
    ("objective: masked_lm", {"name": "masked_lm", "mlm_probability": 0.3}),
    ("objective: {name: masked_lm, whole_word: true}",
     {"name": "masked_lm", "mlm_probability": 0.3, "whole_word": True}),
    ("objective: {whole_word: true}", {"name": "masked_lm", "mlm_probability": 0.3, "whole_word": True}),
    ("objective: {name: whole}", None), ("objective: next_sentence", {"name": "next_sentence"})])
def test_a_block_merges_where_it_names_the_same_plug_in(load, text: str, expected: dict[str, Any] | None) -> None:
    if expected is None:
        with pytest.raises(RequestError, match=r"above\.yaml:2: objective\.name: no objective is called 'whole'"):
            load(text)
        return
    tree = recipes.tree_of(load(text))["objective"]
    usual = recipes.tree_of(recipes.load({**BASE, "objective": expected["name"]}))["objective"]
    assert tree == {**usual, **expected}


def test_a_task_takes_the_place_of_an_objective(load) -> None:
    found = load("task: classification")
    assert (found.objective, recipes.tree_of(found)["task"]["name"]) == (None, "classification")


@pytest.mark.parametrize("length", ["max_tokens: 1000", "num_train_epochs: 2", "max_minutes: 3"])
def test_a_length_takes_the_place_of_the_bases(load, length: str) -> None:
    training = load(f"training: {{{length}}}").training
    name, value = length.split(": ")
    assert (training.max_steps, getattr(training, name), training.learning_rate) == (None, float(value), 0.01)


def test_null_takes_a_mapping_away_and_is_a_value_elsewhere(load) -> None:
    found = load("training: {max_grad_norm: null}\nbackbone: {size: null, config: null}\ntuning: null")
    assert (found.training.max_grad_norm, found.backbone.size, found.backbone.config) == (None, None, {})


def test_a_task_does_not_pack_as_the_bases_objective_did(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: bert_mlm\ntask: classification\ndata: {train: rows.csv}\n")
    assert (recipes.load("bert_mlm").data.packing, recipes.load(tmp_path / "mine.yaml").data.packing) == (
        "blocks", "auto")


@pytest.mark.parametrize(("text", "expected"), [
    ("backbone: {family: gpt2, size: mini}", {"family": "gpt2", "size": "mini"}),
    ("backbone: {pretrained: runs/x}", {"pretrained": "runs/x"}), ("backbone: runs/x", {"pretrained": "runs/x"}),
    ("backbone: {family: bert, size: mini}", {"family": "bert", "size": "mini", "config": {"hidden_size": 32}})])
def test_another_family_or_model_takes_the_place_of_the_whole_backbone(load, text, expected) -> None:
    objective = "\nobjective: causal_lm" if "gpt2" in text else ""
    found = load(text + objective).backbone
    usual = {"family": None, "size": None, "pretrained": None, "config": {}}
    assert {name: getattr(found, name) for name in usual} == {**usual, **expected}


def test_another_tokenizer_takes_the_place_of_the_bases(load) -> None:
    assert load("tokenizer: runs/x").tokenizer.train is None
    assert load("tokenizer: {train: {vocab_size: 90}}").tokenizer.train.vocab_size == 90


def test_a_teacher_by_its_name_alone_is_merged_and_set(load, tmp_path: Path) -> None:
    load("teacher: runs/large\nname: middle\n")
    (tmp_path / "kept" / "top.yaml").write_text("base: above.yaml\nteacher: {temperature: 3}\n")
    found = recipes.load(tmp_path / "kept" / "top.yaml")
    assert (found.teacher.model, found.teacher.temperature) == ("runs/large", 3.0)
    found = recipes.load(tmp_path / "kept" / "above.yaml", ["teacher.alpha=0.9"])
    assert (found.teacher.model, found.teacher.alpha) == ("runs/large", 0.9)
    with pytest.raises(RequestError, match=r"teacher\.temperature"):
        recipes.load(tmp_path / "kept" / "above.yaml", ["teacher.temperature=1e-30"])


def test_the_command_line_goes_over_both(load) -> None:
    found = load("seed: 8", "seed=9", "training.num_train_epochs=1", "objective.mlm_probability=0.2")
    assert (found.seed, found.training.max_steps) == (9, None)
    assert recipes.tree_of(found)["objective"]["mlm_probability"] == 0.2
    with pytest.raises(RequestError, match="--set 'base=other': name the recipe itself in this one's place"):
        load("", "base=other")


def test_a_base_may_stand_on_another_and_each_has_its_own_folder(load, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    load("seed: 8\nname: middle\n")
    (tmp_path / "top" / "top.yaml").write_text("base: ../kept/above.yaml\ntraining: {learning_rate: 0.5}\n")
    found = recipes.load(tmp_path / "top" / "top.yaml")
    assert (found.name, found.seed, found.training.learning_rate, found.training.max_steps) == ("top", 8, 0.5, 10)


def test_a_packaged_recipe_is_a_base_by_its_name_from_python_too(tmp_path: Path) -> None:
    ours = recipes.load({"base": "bert_mlm", "training": {"max_steps": 5}})
    packaged = recipes.load("bert_mlm")
    assert set(recipes.differences(ours, packaged)) == {"training.max_steps"}
    (tmp_path / "my own.yaml").write_text("base: recipes/bert_mlm.yaml\n")
    assert recipes.load(tmp_path / "my own.yaml").name == "run"  # a name has no spaces


@pytest.mark.parametrize(("text", "told"), [
    ("training: {lerning_rate: 1}", r"above\.yaml:2: training\.lerning_rate: no such field"),
    ("seed: many", r"above\.yaml:2: seed"),
    ("base: again", r"above\.yaml:2: base is given twice"),
    ("objective: {mlm_probability: 2}", r"above\.yaml:2: objective\.mlm_probability")])
def test_an_error_names_the_file_and_line_that_said_it(load, text: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        load(text)


def test_an_error_of_the_base_names_the_bases_line(load, tmp_path: Path) -> None:
    below = tmp_path / "kept" / "below.yaml"
    below.write_text(below.read_text().replace("mlm_probability: 0.3", "mlm_probability: 3"))
    line = below.read_text().splitlines().index("  mlm_probability: 3") + 1
    with pytest.raises(RequestError, match=rf"below\.yaml:{line}: objective\.mlm_probability"):
        load("seed: 8")


@pytest.mark.parametrize(("files", "told"), [
    ({"a": "base: a.yaml"}, r"a\.yaml:1: base: a recipe can't stand on itself: a\.yaml -> a\.yaml"),
    ({"a": "base: b.yaml", "b": "seed: 1\nbase: a.yaml"}, r"b\.yaml:2: base: .* a\.yaml -> b\.yaml -> a\.yaml"),
    ({"a": "base: nowhere.yaml"}, r"a\.yaml:1: base: no recipe at 'nowhere\.yaml'"),
    ({"a": "base: bert_mln"}, r"a\.yaml:1: base: .*Did you mean 'bert_mlm'"),
    ({"a": "base: [b.yaml]"}, r"a\.yaml:1: base: a base is one recipe"),
    ({"a": "base:"}, r"a\.yaml:1: base: a base is one recipe"),
    ({"a": "base: b.yaml", "b": "- 1"}, r"b\.yaml: a recipe is a mapping")])
def test_a_base_that_cannot_be_is_told(files: dict[str, str], told: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(RequestError, match=told) as error:
        recipes.load(tmp_path / "a.yaml")
    assert error.value.status == 2


def test_no_more_than_twenty_recipes_stand_on_one_another(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"r{number}.yaml").write_text(f"base: r{number + 1}.yaml\n")
    with pytest.raises(RequestError, match=r"r20\.yaml:1: base: more than 20 recipes stand on one another"):
        recipes.load(tmp_path / "r0.yaml")


def test_the_schema_knows_it_and_a_resolved_recipe_has_none(load) -> None:
    schema = recipes.schema()
    for tree in ({"training": {"max_steps": 5}}, {"data": {"max_length": 8}}, {"data": {"train": "a.txt"}}):
        jsonschema.validate({"base": "bert_mlm", **tree}, schema)
        if "train" not in tree.get("data", {}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(tree, schema)
    assert "base" not in recipes.tree_of(load(""))


def test_a_base_beside_the_recipe_may_be_named_without_its_ending(tmp_path: Path) -> None:
    """As a packaged one is; where a packaged one has the name, that is meant, for a copy may have its file's name."""
    packaged = Path(recipes.find("bert_mlm"))
    (tmp_path / "small.yaml").write_text(f"base: {packaged}\nseed: 5\n")
    (tmp_path / "mine.yaml").write_text("base: small\nname: mine\n")
    assert recipes.load(tmp_path / "mine.yaml").seed == 5
    (tmp_path / "bert_mlm.yaml").write_text("base: bert_mlm\nseed: 6\n")
    assert recipes.load(tmp_path / "bert_mlm.yaml").seed == 6
