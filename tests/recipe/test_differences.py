"""What differs between two recipes, and where a field was said."""

from typing import Any

import pytest

from llmkit import recipe as recipes
from llmkit.recipe.reading import Tree, value
from llmkit.recipe.writing import differences
from llmkit.system.errors import RequestError

TREE: dict[str, Any] = {
    "name": "run", "backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
    "objective": {"name": "masked_lm"}, "data": {"train": "a.txt"}, "training": {"max_steps": 8}}


def against(**sections: Any) -> dict[str, tuple[Any, Any]]:
    """The recipe above with other sections, and what differs from it."""
    return differences(recipes.load({**TREE, **sections}), recipes.load(TREE))


def test_a_recipe_differs_from_itself_in_nothing():
    assert against() == {}


@pytest.mark.parametrize(("sections", "found"), [
    ({"seed": 7}, {"seed": (7, 42)}),
    ({"objective": {"name": "masked_lm", "mlm_probability": 0.3}}, {"objective.mlm_probability": (0.3, 0.15)}),
    ({"backbone": {"family": "bert", "size": "tiny", "config": {"hidden_size": 32}}},
     {"backbone.config.hidden_size": (32, None)}),
    ({"tuning": {"method": "bias"}},
     {"tuning.method": ("bias", "full"), "tuning.layer_learning_rate_decay": (None, 1.0)})])
def test_fields_that_differ_are_named_with_both_values(sections, found):
    assert against(**sections) == found


def test_a_list_differs_as_a_whole():
    (ours, theirs), = against(data={"train": ["a.txt", "b.txt"]}).values()
    assert [[source["source"] for source in side] for side in (ours, theirs)] == [["a.txt", "b.txt"], ["a.txt"]]


@pytest.mark.parametrize("free", [
    {"name": "other"}, {"output_dir": "elsewhere"},
    {"training": {"max_steps": 8, "logging_steps": 3, "save_steps": 9, "save_total_limit": 5,
                  "dataloader_num_workers": 2, "report_to": ["tensorboard"]}}])
def test_what_changes_no_number_is_no_difference(free):
    assert against(**free) == {}


@pytest.mark.parametrize(("path", "place"), [
    (("training", "max_steps"), "r.yaml:4: training.max_steps"), (("training",), "r.yaml:3: training"),
    (("training", "seed"), "r.yaml:3: training.seed"), (("name",), "--set name=x"),
    (("name", "x"), "--set name=x: name.x"),
    (("data", "train", 0), "r.yaml:1: data.train.0"), ((), "r.yaml:1")])
def test_a_field_is_where_it_was_said_or_what_it_is_in(path, place):
    tree = Tree({}, {(): "r.yaml:1", ("training",): "r.yaml:3", ("training", "max_steps"): "r.yaml:4",
                     ("name",): "--set name=x"})
    assert tree.where(path) == place


def test_a_field_that_nobody_wrote_is_called_by_its_name():
    assert Tree({}, {}).where(("data", "train")) == "data.train"
    assert Tree({}, {}).where(()) == "recipe"


@pytest.mark.parametrize(("text", "read"), [
    ("3e-4", 3e-4), ("no", "no"), ("12:30", "12:30"), ("0x10", "0x10"), ("010", 10), ("1_000", 1000), ("~", None),
    ("", None), ("true", True), ("True", True), (".5", 0.5), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}), ("'1'", "1"),
    ("2026-01-01", "2026-01-01"), ("-.inf", float("-inf"))])
def test_a_value_on_the_command_line_is_read_as_yaml_1_2_has_it(text, read):
    assert value(text, "--set a") == read


@pytest.mark.parametrize(("text", "said"), [
    ("[1", "--set a:1: not YAML: "),
    ("*x", "--set a:1: a recipe has no aliases (`*x`); a text that starts with `*` needs"),
    ("!!python/object:os.system x", "--set a:1: a recipe has no tags"),
    ("{a: 1, a: 2}", "--set a:1: a is given twice."),
    ("[" * 60 + "]" * 60, "--set a:1: nested too deeply for a recipe: more than 50 levels."),
    ("9" * 5000, "--set a:1: '9999999999999999999999999999999999999999' can't be read: ")])
def test_what_a_recipe_doesnt_need_is_refused(text, said):
    with pytest.raises(RequestError) as error:
        value(text, "--set a")
    assert str(error.value).startswith(said)
