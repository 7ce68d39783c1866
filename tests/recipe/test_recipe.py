"""A recipe is checked before anything is built: every mistake is one sentence with a place and a way out."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import llmkit
from llmkit import recipe
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

LINES = """\
name: first
seed: 7
backbone: {family: bert, size: tiny}
tokenizer: {train: {vocab_size: 200}}
data:
  train: some.txt
  max_length: 32
objective:
  name: masked_lm
training:
  max_steps: 4
  learning_rate: 1e-3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(LINES)
    return path


def complaint(file: Path, old: str = "", new: str = "", *settings: str, **options: Any) -> str:
    """What `load` says of the recipe with `old` replaced by `new`, the folder left out."""
    assert old in LINES
    file.write_text(LINES.replace(old, new, 1) if old else LINES + new)
    with pytest.raises(RequestError) as caught:
        recipe.load(file, settings, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said.replace(f"{file.parent}/", "")


# ---- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "said"), [
    ("training:", "trainig:", "r.yaml:10: trainig: no such field. Did you mean 'training'?"),
    ("learning_rate", "lerning_rate",
     "r.yaml:12: training.lerning_rate: no such field. Did you mean 'learning_rate'?"),
    ("vocab_size", "vocab_sise", "r.yaml:4: tokenizer.train.vocab_sise: no such field. Did you mean 'vocab_size'?"),
    ("train: some.txt", "train: {source: a, wieght: 2}",
     "r.yaml:6: data.train.wieght: no such field. Did you mean 'weight'?"),
    ("train: some.txt", "train: [b, {source: a, wieght: 2}]",
     "r.yaml:6: data.train.1.wieght: no such field. Did you mean 'weight'?"),
    ("name: masked_lm", "name: masked_lm\n  mlm_probabilty: 0.2",
     "r.yaml:10: objective.mlm_probabilty: no such field of masked_lm. Did you mean 'mlm_probability'?"),
    ("", "tuning:\n  method: prefix\n  num_virtual_token: 2\n",
     "r.yaml:15: tuning.num_virtual_token: no such field of prefix. Did you mean 'num_virtual_tokens'?"),
    ("masked_lm", "maskd_lm",
     "r.yaml:9: objective.name: no objective is called 'maskd_lm'. Did you mean 'masked_lm'?"),
    ("objective:\n  name: masked_lm", "objective: maskd_lm",
     "r.yaml:8: objective.name: no objective is called 'maskd_lm'. Did you mean 'masked_lm'?"),
    ("objective:\n  name: masked_lm", "task: {name: clasification}",
     "r.yaml:8: task.name: no task is called 'clasification'. Did you mean 'classification'?"),
    ("", "tuning: prefx\n",
     "r.yaml:13: tuning.method: no tuning method is called 'prefx'. Did you mean 'prefix'?"),
    ("family: bert", "family: brt",
     "r.yaml:3: backbone.family: no backbone family is called 'brt'. Did you mean 'bert'?"),
    ("size: tiny", "size: tinny", "r.yaml:3: backbone.size: bert has no size 'tinny'. Did you mean 'tiny'?"),
    ("size: tiny", "size: tiny, config: {a: 1}, confg: 2",
     "r.yaml:3: backbone.confg: no such field. Did you mean 'config'?"),
])
def test_a_misspelt_name_is_told_with_its_line_and_the_nearest(file: Path, old: str, new: str, said: str) -> None:
    assert complaint(file, old, new) == said


def test_a_name_near_nothing_is_answered_by_all_there_is(file: Path) -> None:
    said = complaint(file, "name: masked_lm", "name: xyz")
    assert "There is: " in said
    assert all(name in said for name in registry.names("objectives"))


@pytest.mark.parametrize("name", ["no.such.module", "..lm", ".", "json.decoder", "os.path"])
@pytest.mark.parametrize("block", ["objective:\n  name: masked_lm", "family: bert"])
def test_an_import_path_that_leads_to_no_plugin_is_a_mistake_in_the_recipe(file: Path, block: str, name: str) -> None:
    new = f"family: {name}" if block.startswith("family") else f"objective: {name}"
    said = complaint(file, block, new)
    assert said.startswith(("r.yaml:3: backbone.family: ", "r.yaml:8: objective.name: "))


def test_a_plugin_may_live_in_a_module_of_ones_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine_for_test").mkdir()
    (tmp_path / "mine_for_test" / "backwards.py").write_text(
        "from pydantic.dataclasses import dataclass\n"
        "from llmkit.objectives.base import Objective\n"
        "from llmkit.registry import OPTIONS\n"
        "@dataclass(config=OPTIONS)\n"
        "class Backwards(Objective):\n"
        "    steps: int = 3\n"
        "    shapes = frozenset({'decoder'})\n"
        "    head = 'AutoModelForCausalLM'\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = complaint(file, "name: masked_lm", "name: mine_for_test.backwards\n  stepps: 4")
    assert said == "r.yaml:10: objective.stepps: no such field of mine_for_test.backwards. Did you mean 'steps'?"
    said = complaint(file, "name: masked_lm", "name: mine_for_test.backwards")
    assert "needs a backbone of shape decoder; bert is encoder. bert can do: " in said
    file.write_text(LINES.replace("masked_lm", "mine_for_test.backwards").replace("bert", "gpt2"))
    assert recipe.tree_of(recipe.load(file))["objective"] == {"name": "mine_for_test.backwards", "steps": 3}


# ---- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value", "shown"), [
    ("learning_rate", "abc", '"abc"'), ("learning_rate", ".nan", "NaN"), ("learning_rate", ".inf", "Infinity"),
    ("learning_rate", "1e999", "Infinity"), ("learning_rate", "true", "true"), ("learning_rate", "-1e-3", "-0.001"),
    ("learning_rate", "1,000", '"1,000"'), ("learning_rate", "[1]", "[1]"),
    ("max_steps", "2.5", "2.5"), ("max_steps", "-1", "-1"), ("max_steps", "0", "0"), ("max_steps", "true", "true"),
    ("max_steps", "many", '"many"'), ("max_steps", "0x10", '"0x10"'), ("max_steps", "{a: 1}", '{"a": 1}'),
    ("global_batch_size", "0", "0"), ("micro_batch_size", "atuo", '"atuo"'), ("micro_batch_size", "true", "true"),
    ("precision", "fp23", '"fp23"'), ("precision", "16", "16"), ("adam_beta1", "1", "1"),
    ("lr_scheduler_kwargs", "3", "3"), ("report_to", "3", "3"),
])
def test_a_value_of_the_wrong_kind_is_shown_with_its_line(file: Path, field: str, value: str, shown: str) -> None:
    new = f"{field}: {value}" if field == "max_steps" else f"max_steps: 4\n  {field}: {value}"
    old = "max_steps: 4\n  learning_rate: 1e-3" if field == "learning_rate" else "max_steps: 4"
    line = 11 if field == "max_steps" else 12
    assert complaint(file, old, new).startswith(f"r.yaml:{line}: training.{field}: {shown} ")


@pytest.mark.parametrize("value", ["hello", "-1", "1.5", "true", "99999999999999999999", "9" * 5000])
def test_a_seed_is_a_whole_number(file: Path, value: str) -> None:
    assert complaint(file, "seed: 7", f"seed: {value}").startswith("r.yaml:2")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "-x", "", "a b", "x" * 101])
def test_a_name_can_be_a_folder_below_runs(file: Path, name: str) -> None:
    assert complaint(file, "name: first", f"name: '{name}'").startswith("r.yaml:1: name: ")


def test_words_that_are_nearly_right_come_with_the_right_one(file: Path) -> None:
    assert complaint(file, "max_length: 32", "packing: block").endswith("Did you mean 'blocks'?")
    assert complaint(file, "max_steps: 4", "micro_batch_size: atuo").endswith("or 'auto'. Did you mean 'auto'?")
    assert complaint(file, "max_steps: 4", "report_to: [tensorbord]").endswith("Did you mean 'tensorboard'?")


@pytest.mark.parametrize("number", ["3e-4", "1e-4", "3E-4", "0.0003", "3.0e-4", "'3e-4'", "+3e-4", ".0003"])
def test_numbers_with_an_exponent_are_numbers(file: Path, number: str) -> None:
    file.write_text(LINES.replace("1e-3", number))
    assert recipe.load(file).training.learning_rate == pytest.approx(1e-4 if number == "1e-4" else 3e-4)
    file.write_text(LINES)
    typed = recipe.load(file, [f"training.learning_rate={number}"]).training.learning_rate
    assert typed == pytest.approx(1e-4 if number == "1e-4" else 3e-4)


def test_yaml_1_2_words_are_words(file: Path) -> None:
    file.write_text(LINES.replace("name: first", "name: no").replace("some.txt", "{source: 12:30, split: on}"))
    asked = recipe.load(file)
    assert (asked.name, asked.data.train[0].source, asked.data.train[0].split) == ("no", "12:30", "on")


def test_a_section_with_nothing_in_it_is_one_that_is_not_there(file: Path) -> None:
    file.write_text(LINES.replace("training:\n  max_steps: 4\n  learning_rate: 1e-3\n", "training:\n"))
    assert recipe.load(file).training.num_train_epochs == 3
    said = complaint(file, "data:\n  train: some.txt\n  max_length: 32\n", "data:\n")
    assert said == "r.yaml:5: data: this field is needed."


def test_options_that_contradict_each_other_are_told(file: Path) -> None:
    said = complaint(file, "name: masked_lm", "name: masked_lm\n  mask_replace_prob: 0.95")
    assert said.startswith("r.yaml:8: objective: mask_replace_prob and random_replace_prob are shares of one whole")


# ---- YAML -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "said"), [
    ("max_steps: 4", "max_steps: 4\n  max_steps: 5", "r.yaml:12: training.max_steps is given twice."),
    ("training:", "data: {}\ntraining:", "r.yaml:10: data is given twice."),
    ("  max_steps", "\tmax_steps", "r.yaml:11: not YAML: found character '\\t' that cannot start any token."),
    ("train: some.txt", "train: &a some.txt\n  validation: *a",
     "r.yaml:7: a recipe has no aliases (`*a`); a text that starts with `*` needs quotes."),
    ("train: some.txt", "train: *.txt", "r.yaml:6: not YAML: expected alphabetic or numeric character, but found '.'."),
    ("first", "a\0b", "r.yaml:1: not YAML: the character '\\x00' can't be here."),
    ("bert, ", "bert, , ", "r.yaml:3: not YAML: expected the node content, but found ','."),
    ("", "---\nname: second\n", "r.yaml:13: not YAML: but found another document."),
    ("", "? [a]\n: 4\n", "r.yaml:13: a field's name must be a word."),
    ("first", "!!int abc", "r.yaml:1: a recipe has no tags (`!!int`); a text that starts with `!` needs quotes."),
    ("training:", "training: !mine",
     "r.yaml:10: a recipe has no tags (`!mine`); a text that starts with `!` needs quotes."),
])
def test_yaml_that_a_recipe_has_no_use_for_is_told_with_its_line(file: Path, old: str, new: str, said: str) -> None:
    assert complaint(file, old, new) == said


@pytest.mark.parametrize(("content", "said"), [
    (b"", "this file is empty."), (b"# nothing but words\n", "this file is empty."),
    (b"- a\n- b\n", "this file is a list."),
    (b"hello\n", "this file is a str."), (b"name: a\nseed: \xe9\n", "r.yaml:2: not UTF-8: byte 0xe9."),
    (LINES.encode("utf-16"), "r.yaml:1: not UTF-8: byte 0xff."),
    (b"a: " + b"[" * 5000 + b"]" * 5000, "r.yaml:1: nested too deeply for a recipe: more than 50 levels."),
    (b"a: " + b"{b: " * 60 + b"1" + b"}" * 60, "r.yaml:1: nested too deeply for a recipe: more than 50 levels."),
    (b"# " + b"x" * 1_000_000, "r.yaml: 1,000,002 bytes is too long for a recipe."),
])
def test_a_file_that_is_no_recipe_is_told(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        recipe.load(file)
    assert str(caught.value).endswith(said)


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    assert recipe.load(file).name == "first"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir ['{made}']", "!!python/name:os.mkdir",
                                 "!!python/object/new:os.mkdir ['{made}']"])
def test_python_tags_are_refused_and_never_run(file: Path, tmp_path: Path, tag: str) -> None:
    made = tmp_path / "made"
    said = complaint(file, "first", tag.replace("{made}", str(made)))
    assert said.startswith("r.yaml:1: a recipe has no tags (`!!python/")
    assert not made.exists()


# ---- what fits together -----------------------------------------------------------------------------------------


def test_a_recipe_has_an_objective_or_a_task(file: Path) -> None:
    both = complaint(file, "", "task: classification\n")
    assert both.startswith("r.yaml:13: task: both objective and task are given;")
    neither = complaint(file, "objective:\n  name: masked_lm\n", "")
    assert neither.startswith("r.yaml:1: neither objective nor task is given;")


def test_an_objective_that_the_family_cannot_do_says_who_can_and_what_it_can(file: Path) -> None:
    said = complaint(file, "family: bert", "family: gpt2")
    assert said.startswith("r.yaml:8: objective: masked_lm needs a backbone of shape encoder; gpt2 is decoder.")
    assert "gpt2 can do: adversarial, causal_lm" in said
    who = said.partition("masked_lm can be done by: ")[2]
    assert "bert" in who
    assert "gpt2" not in who


@pytest.mark.parametrize(("old", "new", "said"), [
    ("max_steps: 4", "max_steps: 4\n  max_tokens: 10",
     "r.yaml:12: training.max_tokens: a run has one length; max_steps is given too."),
    ("max_steps: 4", "global_batch_size: 8\n  micro_batch_size: 3",
     "r.yaml:12: training.micro_batch_size: 3 does not divide global_batch_size 8."),
    ("train: some.txt", "train: []", "r.yaml:6: data.train: at least one source is needed."),
    ("train: some.txt", "document: line", "r.yaml:5: data.train: this field is needed."),
    ("train: some.txt", "train: [a, {source: b, weight: 2}]",
     "r.yaml:6: data.train: either every source has a weight or none."),
    ("size: tiny", "size: tiny, pretrained: x", "r.yaml:3: backbone.size: a pretrained model has its own size."),
    ("backbone: {family: bert, size: tiny}", "backbone: {size: tiny}",
     "r.yaml:3: backbone: family (and size), or pretrained, is needed."),
    ("{train: {vocab_size: 200}}", "{train: {}, pretrained: x}",
     "r.yaml:4: tokenizer: give one of train and pretrained."),
    ("max_length: 32", "validation: 1.5",
     "r.yaml:7: data.validation: 1.5 should be less than 1."),
    ("max_length: 32", "validation: true", "r.yaml:7: data.validation: true is no number."),
])
def test_numbers_and_parts_that_contradict_each_other_are_told(file: Path, old: str, new: str, said: str) -> None:
    assert complaint(file, old, new) == said


# ---- command line over file -------------------------------------------------------------------------------------


def test_what_the_command_line_says_goes_over_the_file(file: Path) -> None:
    asked = recipe.load(file, ["seed=9", "training.learning_rate=1e-4", "objective.mlm_probability=0.3", "name=other"])
    assert (asked.seed, asked.training.learning_rate, asked.name) == (9, 1e-4, "other")
    assert asked.objective.mlm_probability == 0.3
    assert asked.data.max_length == 32  # what is not said stays


def test_the_last_setting_of_a_field_holds(file: Path) -> None:
    assert recipe.load(file, ["seed=1", "seed=2"]).seed == 2


def test_a_length_on_the_command_line_replaces_the_files(file: Path) -> None:
    training = recipe.load(file, ["training.max_tokens=900"]).training
    assert (training.max_tokens, training.max_steps, training.num_train_epochs) == (900, None, None)


def test_two_lengths_on_the_command_line_are_one_too_many(file: Path) -> None:
    said = complaint(file, "", "", "training.max_steps=3", "training.max_minutes=2")
    assert said == "--set training.max_steps and --set training.max_minutes: only one length can hold."


def test_a_length_set_to_null_is_no_length(file: Path) -> None:
    training = recipe.load(file, ["training.max_steps=null", "training.max_minutes=2"]).training
    assert (training.max_steps, training.max_minutes) == (None, 2)
    assert recipe.load(file, ["training.max_steps="]).training.num_train_epochs == 3


def test_a_method_replaces_the_whole_block_and_settings_go_over_it(file: Path) -> None:
    file.write_text(LINES + "tuning: {method: lora, r: 2, lora_alpha: 3}\n")
    assert recipe.load(file).tuning.r == 2
    assert recipe.load(file, method="lora").tuning.r == 8
    asked = recipe.load(file, ["tuning.num_virtual_tokens=5"], method="prefix")
    assert recipe.tree_of(asked)["tuning"] == {"method": "prefix", "num_virtual_tokens": 5, "prefix_projection": False}


def test_a_task_replaces_the_objective(file: Path) -> None:
    asked = recipe.load(file, task="classification")
    assert (asked.objective, registry.name_of(asked.task)) == (None, "classification")


def test_settings_reach_into_lists_and_into_blocks_given_as_a_word(file: Path) -> None:
    file.write_text(LINES.replace("train: some.txt", "train: [{source: a}, {source: b}]")
                    .replace("objective:\n  name: masked_lm", "objective: masked_lm"))
    asked = recipe.load(file, ["data.train.1.source=c", "objective.mlm_probability=0.2"])
    assert [source.source for source in asked.data.train] == ["a", "c"]
    assert asked.objective.mlm_probability == 0.2


def test_a_glob_needs_no_quotes_on_the_command_line(file: Path) -> None:
    assert recipe.load(file, ["data.train=*.txt"]).data.train[0].source == "*.txt"


@pytest.mark.parametrize(("setting", "said"), [
    ("training.max_steps", "--set 'training.max_steps': write section.key=value, as training.max_steps=100."),
    ("=3", "--set '=3': write section.key=value, as training.max_steps=100."),
    ("training..max_steps=3", "--set 'training..max_steps=3': write section.key=value, as training.max_steps=100."),
    ("data.train=[a, *.txt]", "--set 'data.train=[a, *.txt]': the value isn't YAML."),
    ("trainig.max_steps=3", "--set trainig.max_steps: trainig: no such field. Did you mean 'training'?"),
    ("training.max_step=3", "--set training.max_step: no such field. Did you mean 'max_steps'?"),
    ("training={max_step: 3}", "--set training: training.max_step: no such field. Did you mean 'max_steps'?"),
    ("training=3", "--set training: 3 should be a mapping of fields."),
    ("name.first=3", "--set name.first: name is 'first', it has no fields."),
    ("training.micro_batch_size=3", "--set training.micro_batch_size: 3 does not divide global_batch_size 32."),
    ("backbone.size=tinny", "--set backbone.size: bert has no size 'tinny'. Did you mean 'tiny'?"),
])
def test_a_mistake_on_the_command_line_is_told_as_what_was_typed(file: Path, setting: str, said: str) -> None:
    told = complaint(file, "", "", setting)
    assert told == said or told == said.replace("trainig: no", "no")


def test_a_misspelt_method_is_told_as_the_option(file: Path) -> None:
    said = complaint(file, "", "", method="prefx")
    assert said == "--method prefx: no tuning method is called 'prefx'. Did you mean 'prefix'?"


def test_a_place_outside_a_list_is_told(file: Path) -> None:
    said = complaint(file, "train: some.txt", "train: [{source: a}]", "data.train.1.source=b")
    assert said == "--set data.train.1.source: '1' is no place in a list of 1."


# ---- packaged, Python, round trip -------------------------------------------------------------------------------

COMPLICATED: dict[str, Any] = {
    "name": "1e5", "seed": 2**63 - 1, "output_dir": "no",
    "backbone": {"family": "t5", "size": "tiny",
                 "config": {"dropout_rate": 1e-05, "a": [1, 2], "b": {"c": None, "d": "12:30"}}},
    "tokenizer": {"train": {"kind": "unigram", "vocab_size": 300, "lowercase": True}},
    "data": {"train": [{"source": "*.txt", "weight": 0.3}, {"source": "hub:x/y", "weight": 1, "split": "on",
                                                           "fields": {"text": "3e-4", "id": 2}, "encoding": "latin-1"}],
             "validation": [{"source": "~ tilde: and #hash "}], "max_length": 64, "packing": "blocks"},
    "task": {"name": "instruction", "template": "Q: {prompt}\n\nA:\t\"é\" 'x' {} \u2028 "},
    "tuning": {"method": "lora", "r": 4, "target_modules": ["q", "true", "007"]},
    "training": {"max_minutes": 0.5, "global_batch_size": 6, "micro_batch_size": 3, "learning_rate": 3e-4,
                 "max_grad_norm": None, "lr_scheduler_kwargs": {"min_lr": 1e-7}, "report_to": ["tensorboard"]},
}


def reloaded(asked: recipe.Recipe, folder: Path) -> recipe.Recipe:
    (folder / "dumped.yaml").write_text(recipe.dump(asked))
    return recipe.load(folder / "dumped.yaml")


@pytest.mark.parametrize("name", sorted(recipe.packaged()))
def test_a_packaged_recipe_loads_and_comes_back_from_its_dump(name: str, tmp_path: Path) -> None:
    asked = recipe.load(name)
    assert reloaded(asked, tmp_path) == asked
    assert recipe.differences(asked, reloaded(asked, tmp_path)) == {}


def test_a_complicated_recipe_comes_back_from_its_dump(tmp_path: Path) -> None:
    asked = recipe.load(COMPLICATED)
    assert reloaded(asked, tmp_path) == asked
    assert asked.training.max_grad_norm is None


@pytest.mark.parametrize("text", [
    "no", "on", "1e5", "1_000", "0x1F", "12:30", "2001-01-01", "~", "null", "", " a ", "*.b", "!x", "&a", "a: b", "- a",
    "#", "é\n", "'", '"', "\\n", ".nan", "+.inf", "=", "<<", "\x85", "a\u2028b", "\t", "🐈", "x" * 300, "a b " * 60])
def test_any_text_comes_back_from_a_dump(text: str, tmp_path: Path) -> None:
    tree = copy.deepcopy(COMPLICATED)
    tree["task"]["template"] = f"{text}{{prompt}}{text}"
    tree["data"]["train"][0]["source"], tree["tuning"]["target_modules"] = text, text
    asked = recipe.load(tree)
    assert reloaded(asked, tmp_path) == asked


def test_a_dump_says_every_default_and_other_yaml_readers_agree(file: Path) -> None:
    plain = yaml.safe_load(recipe.dump(recipe.load(file)))
    assert plain["training"]["save_steps"] == 500
    assert plain["objective"]["mask_replace_prob"] == 0.8
    assert plain["training"]["learning_rate"] == 1e-3


def test_a_recipe_can_be_a_dict(tmp_path: Path) -> None:
    tree = {"backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {}},
            "data": {"train": tmp_path / "a.txt"}, "objective": "masked_lm", "training": {"max_steps": 3}}
    before = copy.deepcopy(tree)
    asked = llmkit.load_recipe(tree, ["seed=3"])
    assert (asked.seed, asked.data.train[0].source, asked.training.max_steps) == (3, str(tmp_path / "a.txt"), 3)
    assert tree == before  # the caller's own stays as it was
    with pytest.raises(RequestError, match=r"^training\.lerning_rate: no such field\. Did you mean 'learning_rate'\?$"):
        llmkit.load_recipe({**tree, "training": {"lerning_rate": 1}})


def test_rows_in_a_dict_of_a_recipe_are_refused_with_the_way_to_give_them() -> None:
    import datasets  # type: ignore[import-untyped]

    for train, said in ((datasets.Dataset.from_list([{"text": "a"}]), "data.train: a recipe can't hold a Dataset"),
                        ([{"source": (text for text in "ab")}], "data.train.0.source: a recipe can't hold a generator"),
                        (lambda: ["a"], "data.train: a recipe can't hold a function")):
        with pytest.raises(RequestError) as caught:
            recipe.load({"backbone": {"family": "gpt2", "size": "tiny"}, "objective": "causal_lm",
                         "data": {"train": train}})
        assert str(caught.value) == f"{said}; give rows beside it: llmkit.fit(recipe, train=…, validation=…)."


def test_a_set_is_no_value_and_a_path_is_one() -> None:
    tree = {"backbone": {"family": "gpt2", "size": "tiny"}, "tokenizer": {"train": {}}, "objective": "causal_lm",
            "data": {"train": [Path("a.txt"), {"source": Path("b.txt")}]}, "output_dir": Path("run")}
    made = recipe.load(tree)
    assert ([source.source for source in made.data.train], made.output_dir) == (["a.txt", "b.txt"], "run")
    with pytest.raises(RequestError, match=r"^training\.metrics: a recipe can't hold a set; write numbers, texts"):
        recipe.load({**tree, "training": {"metrics": {"f1"}}})


def test_a_recipe_is_found_by_path_and_by_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert recipe.find("r.yaml") == Path("r.yaml")
    assert recipe.find("bert_mlm").name == recipe.find("recipes/bert_mlm.yaml").name == "bert_mlm.yaml"
    with pytest.raises(RequestError, match=r"^no recipe at 'bert_mln'.*Did you mean 'bert_mlm'\?$"):
        recipe.find("bert_mln")
    with pytest.raises(RequestError, match="There is: adversarial, bert_mlm, "):
        recipe.find("quite/else.yaml")


def test_recipes_differ_in_what_matters_only(file: Path) -> None:
    ours = recipe.load(file)
    same = recipe.load(file, ["name=b", "output_dir=x", "training.logging_steps=3", "training.save_steps=4"])
    assert recipe.differences(ours, same) == {}
    other = recipe.load(file, ["seed=1", "training.lr_scheduler_kwargs={a: 1}"])
    assert recipe.differences(ours, other) == {"seed": (7, 1), "training.lr_scheduler_kwargs.a": (None, 1)}


# ---- combinations -----------------------------------------------------------------------------------------------


IMPOSSIBLE = {
    ("causal_lm", "bert", "full"): "objective: causal_lm needs a backbone of shape decoder; bert is encoder.",
    ("masked_lm", "t5", "lora"): "objective: masked_lm needs a backbone of shape encoder; t5 is encoder-decoder.",
    ("span_corruption", "gpt2", "full"):
        "objective: span_corruption needs a backbone of shape encoder-decoder; gpt2 is decoder.",
    ("denoising", "xlnet", "full"): "objective: denoising needs a backbone of shape encoder-decoder; xlnet is permuted",
    ("prefix_lm", "bert", "prefix"):
        "objective: prefix_lm needs a backbone of shape decoder or encoder-decoder; bert is encoder.",
    ("permuted_lm", "llama", "full"): "objective: permuted_lm needs a backbone of shape permuted; llama is decoder.",
    ("contrastive", "bart", "lora"): "objective: contrastive needs a backbone of shape encoder; bart is",
    ("replaced_token", "gpt2", "full"): "objective: replaced_token needs a backbone of shape encoder; gpt2 is decoder.",
    ("next_sentence", "roberta", "full"):
        "objective: next_sentence needs a head that transformers doesn't have for roberta.",
    ("sentence_order", "modernbert", "full"):
        "objective: sentence_order needs a head that transformers doesn't have for modernbert.",
    ("masked_lm_next_sentence", "electra", "full"):
        "objective: masked_lm_next_sentence needs a head that transformers doesn't have for electra.",
    ("replaced_token", "electra", "lora"):
        "tuning: replaced_token trains two networks whole; it takes the method full.",
    ("replaced_token", "bert", "prefix"):
        "tuning: replaced_token trains two networks whole; it takes the method full.",
}


def mixed(objective: str, family: str, method: str) -> dict[str, Any]:
    return {"backbone": {"family": family, "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
            "data": {"train": "no-such-file.txt"}, "objective": objective, "tuning": method}


@pytest.mark.parametrize("parts", IMPOSSIBLE, ids=" ".join)
def test_what_cannot_work_is_refused_with_the_reason_and_what_can(parts: tuple[str, str, str]) -> None:
    with pytest.raises(RequestError) as caught:
        recipe.load(mixed(*parts))
    said = str(caught.value)
    assert said.startswith(IMPOSSIBLE[parts])
    if said.startswith("objective"):
        objective, family, _ = parts
        can, who = (words.split(": ")[1].split(", ") for words in said.rstrip(".").split(". ")[-2:])
        assert objective not in can and family not in who
        for other in who:  # and what it says can work does
            recipe.load(mixed(objective, other, "full"))
        for other in can:
            recipe.load(mixed(other, family, "full"))


def test_nothing_is_loaded_to_refuse_a_combination() -> None:
    """A process of its own: this one has the libraries already."""
    code = ("import json, sys\nfrom llmkit import recipe\nfrom llmkit.system.errors import RequestError\n"
            "for tree in json.loads(sys.argv[1]):\n"
            "    try:\n        recipe.load(tree)\n    except RequestError:\n        continue\n"
            "    raise SystemExit(f'{tree} was taken')\n"
            "print([name for name in ('torch', 'transformers', 'peft', 'datasets') if name in sys.modules])")
    trees = json.dumps([mixed(*parts) for parts in IMPOSSIBLE])
    done = subprocess.run([sys.executable, "-c", code, trees], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


PACKED = {
    ("contrastive", "bert"): "contrastive makes its own rows; it can't do 'documents', only none.",
    ("next_sentence", "bert"): "next_sentence makes its own rows; it can't do 'documents', only none.",
    ("denoising", "bart"): "bart can't keep documents in a row apart: its positions count from the start of the row",
    ("masked_lm", "deberta"):
        "deberta can't keep documents in a row apart: its attention takes no mask that differs from token to token",
}


@pytest.mark.parametrize("parts", PACKED, ids=" ".join)
def test_packing_that_cannot_be_exact_is_refused_with_the_reason(parts: tuple[str, str], text: Path) -> None:
    from llmkit.planning.settle import settle

    tree = mixed(*parts, "full")
    tree["data"] = {"train": str(text), "packing": "documents", "max_length": 32}
    with pytest.raises(RequestError) as caught:
        settle(recipe.load(tree))
    assert str(caught.value).startswith(f"data.packing: {PACKED[parts]}")


# ---- schema -----------------------------------------------------------------------------------------------------


def test_the_schema_knows_every_plugin_and_no_other_field() -> None:
    schema = recipe.schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"name", "seed", "backbone", "tokenizer", "data", "objective", "task",
                                         "prompting", "tuning", "optimizer", "teacher", "training", "output_dir",
                                         "base"}
    for block, (kind, key) in recipe.BLOCKS.items():
        words, _, *choices, _ = schema["properties"][block]["anyOf"]  # the second and the last are of own plug-ins
        assert words == {"enum": list(registry.names(kind))}
        assert [choice["properties"][key]["const"] for choice in choices] == words["enum"]
        assert all(choice["additionalProperties"] is False for choice in choices)
    assert "Rank" in json.dumps(schema)  # help of a plug-in's option, for editors


def test_the_schema_accepts_what_loads_and_refuses_what_does_not(file: Path) -> None:
    checker = pytest.importorskip("jsonschema")
    schema = recipe.schema()
    checker.Draft202012Validator.check_schema(schema)
    validator = checker.Draft202012Validator(schema)
    for path in recipe.packaged().values():
        assert list(validator.iter_errors(recipe.read(path).root)) == [], path
        assert list(validator.iter_errors(recipe.tree_of(recipe.load(path)))) == [], path
    validator.validate(recipe.tree_of(recipe.load(COMPLICATED)))
    validator.validate({**recipe.read(file).root, "tuning": "lora", "backbone": "minilm-l6", "tokenizer": "gpt2"})
    misspelt = {"training": "lerning_rate", "objective": "mlm_probabilty", "data": "trian", "backbone": "famly"}
    for section, key in misspelt.items():
        tree = recipe.read(file).root
        tree[section][key] = 1
        assert not validator.is_valid(tree), key
    assert not validator.is_valid({**recipe.read(file).root, "trainig": {}})
