"""What is compared: methods, models and settings, each with each, and the table with the best first."""

import json
from pathlib import Path

import pytest

from llmkit.cli import main
from llmkit.inference.comparing.contenders import contenders, grid_of, kind_of
from llmkit.inference.comparing.inline import variants
from llmkit.inference.comparing.sheet import Sheet, spread
from llmkit.system.errors import RequestError


def methods(text):
    return variants(text, "tuning", "--methods")


@pytest.mark.parametrize(("words", "models", "grid", "labels"), [
    ("full,lora(r=4)", [], {}, ["full", "lora(r=4)"]),
    ("full", [], {}, ["full"]),
    ("full", ["a", "org/b"], {}, ["a", "org/b"]),
    ("full,lora", ["a", "b"], {}, ["a full", "b full", "a lora", "b lora"]),
    ("full", [], {"training.learning_rate": ["1e-3", "3e-3"]}, ["learning_rate=1e-3", "learning_rate=3e-3"]),
    ("full", ["a"], {"seed": ["1", "2"]}, ["a seed=1", "a seed=2"]),
    ("full,lora", [], {"a.x": ["1"], "b.x": ["2", "3"]},
     ["full a.x=1 b.x=2", "full a.x=1 b.x=3", "lora a.x=1 b.x=2", "lora a.x=1 b.x=3"]),
])
def test_labels_say_what_differs(words, models, grid, labels):
    assert sorted(one.label for one in contenders(methods(words), models, grid)) == sorted(labels)


@pytest.mark.parametrize(("words", "models", "grid", "kind"), [
    ("full,lora", [], {}, "method"), ("full", ["a", "b"], {}, "model"), ("full", [], {"seed": ["1"]}, "setting"),
    ("full,lora", ["a"], {}, "run"), ("full,lora", [], {"seed": ["1"]}, "run"),
    ("full", ["a"], {"seed": ["1"]}, "run")])
def test_the_first_column_is_called_by_what_is_in_it(words, models, grid, kind):
    assert kind_of(methods(words), models, grid) == kind


def test_folders_are_named_by_what_differs():
    (method,) = contenders(methods("lora(r=4)"), [], {})
    assert method.slug == "lora-r-4"  # as before there were models and grids
    (model,) = contenders(methods("full"), ["/some/where/bert"], {})
    assert model.slug == "bert"
    (point,) = contenders(methods("full"), [], {"training.learning_rate": ["1e-3"]})
    assert (point.slug, point.settings) == ("learning_rate-1e-3", ["training.learning_rate=1e-3"])


def test_another_model_keeps_what_the_recipe_says_beside_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("backbone: {pretrained: one, layers: [0, 2]}\ndata: {train: a.csv}\ntask: classification\n")
    _, other = contenders(methods("full"), ["one", "two"], {})
    found = other.recipe(path, [], None, {}).backbone
    assert (found.pretrained, found.layers) == ("two", [0, 2])
    path.write_text("backbone: {family: bert, size: tiny}\ndata: {train: a.csv}\ntask: classification\n")
    found = other.recipe(path, [], None, {}).backbone
    assert (found.pretrained, found.family, found.size, found.config) == ("two", None, None, {})


def test_two_that_would_share_a_folder_are_refused():
    with pytest.raises(RequestError, match="here/bert, there/bert: these would share a folder"):
        contenders(methods("full"), ["there/bert", "here/bert"], {})


@pytest.mark.parametrize(("words", "grid"), [
    (["training.learning_rate=1e-3,3e-3"], {"training.learning_rate": ["1e-3", "3e-3"]}),
    (["seed=1, 2", "data.shots=4,8,16"], {"seed": ["1", "2"], "data.shots": ["4", "8", "16"]}),
    (["tuning.target_modules=[q, v],[q]"], {"tuning.target_modules": ["[q, v]", "[q]"]}),
    ([], {})])
def test_a_grid_is_the_values_of_each_field(words, grid):
    assert grid_of(words) == grid


@pytest.mark.parametrize(("words", "said"), [
    (["training.learning_rate"], "write SECTION.KEY=VALUE,VALUE"), (["seed="], "write SECTION.KEY"),
    (["a b=1"], "write SECTION.KEY"), (["seed=1", "seed=2"], "is given twice; put all"),
    (["seed=1,2,1"], "--grid seed: 1 is there twice")])
def test_a_grid_that_is_none_is_refused(words, said):
    with pytest.raises(RequestError, match=said):
        grid_of(words)


def sheet(metric, floors, **means):
    rows = [{"method": name, "runs": 1, "failed": 0, "error": None, **spread([mean])} for name, mean in means.items()]
    return Sheet("method", metric, rows, {}, floors, ("mean", "", "linear"), "title", "about")


def test_what_is_below_a_floor_is_named_so():
    cells = sheet("accuracy", {"guess": 0.5, "words": 0.7}, full=0.8, lora=0.6, head=0.4, bias=0.7).cells()
    assert [row[1] for row in cells[1:5]] == ["0.8000", "0.6000, below words", "0.4000, below words", "0.7000"]


def test_less_of_a_loss_is_above_a_floor():
    cells = sheet("loss", {"guess": 0.5}, full=0.4, lora=0.6).cells()
    assert [row[1] for row in cells[1:3]] == ["0.4000", "0.6000, below guess"]


# ---- by the command line ----

@pytest.fixture
def asked(labelled, encoder, tmp_path, here):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({
        "name": "r", "backbone": {"pretrained": str(encoder)}, "task": "classification",
        "data": {"train": str(labelled), "validation": 0.3, "max_length": 32}, "tuning": {"method": "bias"},
        "training": {"figures": False, "max_steps": 1, "global_batch_size": 4, "precision": "fp32"}}))
    return ["compare", str(path), "--output-dir", str(tmp_path / "out")]


def table(asked):
    return json.loads((Path(asked[-1]) / "compare.json").read_text())


def test_settings_are_compared_the_best_first(asked, capsys):
    assert main([*asked, "--grid", "training.learning_rate=0.0,0.1", "--metric", "loss"]) == 0
    told, out = table(asked), capsys.readouterr().out
    first, second = told["methods"]
    assert first["mean"] < second["mean"]
    assert {first["learning_rate"], second["learning_rate"]} == {0.0, 0.1}
    assert {row["setting"] for row in told["methods"]} == {"learning_rate=0.0", "learning_rate=0.1"}
    assert first["settings"] == {"training.learning_rate": first["setting"].partition("=")[2]}
    assert {row["method"] for row in told["methods"]} == {"bias"}  # the recipe's own
    assert told["grid"] == {"training.learning_rate": ["0.0", "0.1"]}
    assert out.splitlines()[0] == "r: loss by setting"
    assert "Tuned on these same rows, by training.learning_rate: the best of 2" in (
        Path(asked[-1]) / "compare.md").read_text()


def test_models_are_compared(asked, encoder, tmp_path, capsys):
    other = tmp_path / "other"
    other.symlink_to(encoder)
    assert main([*asked, "--models", f"{encoder},{other}"]) == 0
    rows = table(asked)["methods"]
    assert [row["model"] for row in rows] == [str(encoder), str(other)]
    assert rows[0]["values"] == rows[1]["values"]  # it is the same model
    assert capsys.readouterr().out.startswith("r: accuracy by model\n")


@pytest.mark.parametrize(("words", "said"), [
    ([], "say what is compared: --methods full,lora, --models a,b or --grid"),
    (["--models", "a,b", "--model", "c"], "--model and --models"),
    (["--grid", "training.lerning_rate=1,2"], "--grid training.lerning_rate: no such field"),
    (["--grid", "training.learning_rate=1,2", "--tune", "learning_rate"], "training.learning_rate tries its own"),
    (["--grid", "seed=1,2", "--set", "seed=1"], "--grid seed: --set gives one value for all"),
    (["--grid", "training.max_steps=1,none"], "--grid training.max_steps"),
    (["--models", "nowhere/at-all"], "nowhere/at-all")])
def test_requests_that_cannot_work_end_before_the_first_run(asked, words, said, capsys):
    status = main([*asked, *words])
    err = capsys.readouterr().err
    assert said in err
    assert status in (2, 4)
