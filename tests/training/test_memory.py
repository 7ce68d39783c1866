"""Rows of a program as the data of a run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import stories, tiny

import llmkit
from llmkit.cli import main
from llmkit.inference.writing.options import Options
from llmkit.models import open_model
from llmkit.system.errors import CheckpointError, DataError, LlmkitError, RequestError

ROWS = [{"text": story, "label": "animal" if story.split()[1] in ("cat", "dog", "small") else "other"}
        for story in stories(48, 1)]


@pytest.fixture
def tree(labelled: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe of a classifier, without data."""
    made = tiny("bert", labelled, tmp_path / "run", max_steps=4)
    del made["objective"], made["data"]["train"]
    return {**made, "task": "classification"}


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "train"]


def test_a_list_a_data_set_and_a_function_give_the_run_that_a_file_gives(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def rows() -> Iterator[dict[str, str]]:
        yield from ROWS

    found = []
    for name, given in (("list", ROWS), ("set", datasets.Dataset.from_list(ROWS)), ("function", rows)):
        llmkit.fit({**tree, "output_dir": str(tmp_path / name)}, train=given)
        found.append(losses(tmp_path / name))
    llmkit.fit({**tree, "output_dir": str(tmp_path / "file"), "data": {**tree["data"], "train": str(path)}})
    assert found == [losses(tmp_path / "file")] * 3


def test_texts_are_documents(text: Path, tmp_path: Path) -> None:
    made = tiny("gpt2", text, tmp_path / "texts", max_steps=2)
    file = llmkit.fit({**made, "output_dir": str(tmp_path / "file")})
    summary = llmkit.fit(made, train=text.read_text().splitlines())
    assert summary["train_loss"] == file["train_loss"]


def test_a_recipe_that_was_loaded_takes_rows_too(tree: dict[str, Any], labelled: Path) -> None:
    loaded = llmkit.load_recipe({**tree, "data": {**tree["data"], "train": str(labelled)}})
    summary = llmkit.fit(loaded, train=ROWS, validation=ROWS[:16])
    assert summary["recipe"]["data"] == ["memory:train"]
    assert summary["evaluation"]["loss"] > 0


def test_the_same_rows_go_on_and_others_are_another_run(tree: dict[str, Any], tmp_path: Path) -> None:
    longer = {**tree, "training": {**tree["training"], "lr_scheduler_type": "constant"}}
    llmkit.fit(longer, train=ROWS)
    whole = losses(tmp_path / "run")
    more = {**longer, "training": {**longer["training"], "max_steps": 6}}
    assert llmkit.fit(more, train=list(ROWS))["steps"] == 6
    assert losses(tmp_path / "run")[: len(whole)] == whole
    with pytest.raises(CheckpointError, match=r"data\.train"):
        llmkit.fit(more, train=ROWS[1:])


def test_recipe_yaml_says_memory_and_the_command_line_refuses_it(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    llmkit.fit(tree, train=ROWS)
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["data"]["train"][0]["source"].startswith("memory:")
    assert len(written["data"]["train"][0]["source"]) == len("memory:") + 64
    assert main(["finetune", str(tmp_path / "run" / "recipe.yaml")]) == 2
    assert "run it again from Python" in capsys.readouterr().err


def test_a_bad_row_is_named_or_left_out(tree: dict[str, Any], tmp_path: Path) -> None:
    rows = [*ROWS[:20], {"text": "", "label": "other"}, *ROWS[20:]]
    with pytest.raises(DataError, match="memory:train:21: the field 'text' is empty"):
        llmkit.fit(tree, train=rows)
    skipping = {**tree, "data": {**tree["data"], "on_bad_row": "skip"}}
    assert llmkit.fit(skipping, train=rows)["bad_rows"] == 1
    assert "memory:train:21" in (tmp_path / "run" / "bad_rows.txt").read_text()


@pytest.mark.parametrize(("given", "what"), [
    (iter(ROWS), "can be gone through only once"), ("text", "not a str"), (7, "not an int")])
def test_what_is_no_rows_is_refused(tree: dict[str, Any], given: Any, what: str) -> None:
    with pytest.raises(RequestError, match=f"memory:train: .*{what}"):
        llmkit.fit(tree, train=given)


def test_a_run_of_rows_is_measured_and_asked_on_rows(tree: dict[str, Any], tmp_path: Path) -> None:
    llmkit.fit(tree, train=ROWS, validation=ROWS[:16])
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    found = llmkit.evaluate(tmp_path / "run", ROWS[:16])
    assert found["metrics"]["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert (found["rows"], found["data"]) == (16, "rows")
    predictions = list(llmkit.predict(tmp_path / "run", [{"text": row["text"]} for row in ROWS[:3]]))
    assert [one["label"] in ("animal", "other") for one in predictions] == [True] * 3


def test_rows_to_predict_are_what_rows_to_train_on_are(tree: dict[str, Any], tmp_path: Path) -> None:
    llmkit.fit(tree, train=ROWS)
    run, texts = tmp_path / "run", [row["text"] for row in ROWS[:2]]
    asked = (texts, [{"text": text} for text in texts], lambda: texts, iter([{"text": text} for text in texts]),
             datasets.Dataset.from_list([{"text": text} for text in texts]))
    found = [list(llmkit.predict(run, rows)) for rows in asked]
    assert found == [found[0]] * len(asked)
    for rows in ({"text": texts}, [3], None, [{"text": "a\ud800"}]):
        with pytest.raises(LlmkitError):
            list(llmkit.predict(run, rows))  # type: ignore[arg-type]


def test_numpys_numbers_and_tuples_are_read_as_pythons(tree: dict[str, Any], tmp_path: Path) -> None:
    plain = [{"text": row["text"], "label": int(row["label"] == "other")} for row in ROWS]
    numpys = [{"text": row["text"], "label": np.int64(row["label"])} for row in plain]
    llmkit.fit({**tree, "output_dir": str(tmp_path / "plain")}, train=plain)
    llmkit.fit({**tree, "output_dir": str(tmp_path / "numpys")}, train=numpys)
    assert losses(tmp_path / "plain") == losses(tmp_path / "numpys")


def test_rows_in_the_place_of_sources_are_told_where_they_belong(tree: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="these are rows, not sources; give them beside the recipe"):
        llmkit.fit({**tree, "data": {"train": ROWS}})


def test_an_opened_model_is_left_as_it_was_and_writes_too(tree: dict[str, Any], text: Path, tmp_path: Path) -> None:
    llmkit.fit(tree, train=ROWS)
    opened = open_model(tmp_path / "run")
    opened.model.train()  # type: ignore[no-untyped-call]
    llmkit.evaluate(opened, ROWS[:4])
    list(llmkit.predict(opened, ROWS[:4], task="classification"))
    assert opened.model.training
    llmkit.fit(tiny("gpt2", text, tmp_path / "writer", max_steps=2))
    options = Options(max_new_tokens=4, temperature=0.0)
    by_name = llmkit.generate("the cat", str(tmp_path / "writer"), options, dtype="float32")
    opened = open_model(tmp_path / "writer")
    assert llmkit.generate("the cat", opened, options).completions[0].text == by_name.completions[0].text
    with pytest.raises(RequestError, match="dtype: the model is open already"):
        llmkit.generate("the cat", opened, options, dtype="bfloat16")
    for ask in (lambda: llmkit.generate("the cat", opened.model), lambda: llmkit.evaluate(opened.model, ROWS[:2]),
                lambda: list(llmkit.predict(None, ROWS[:2]))):
        with pytest.raises(RequestError, match="an opened model is needed"):
            ask()


def test_a_programs_own_accelerator_stays_as_it_is(tree: dict[str, Any], tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # another test may have had one of its own
    mine = Accelerator(cpu=True, mixed_precision="bf16")
    llmkit.fit(tree, train=ROWS)
    list(llmkit.predict(tmp_path / "run", ROWS[:2]))
    llmkit.evaluate(tmp_path / "run", ROWS[:8])
    assert mine.mixed_precision == "bf16"
    assert Accelerator(cpu=True).mixed_precision == "bf16"


# ---- data sets with classes, bad rows, a recipe's fields ------------------------------------------------------------


def classes(names: list[str], rows: list[dict[str, Any]] = ROWS) -> datasets.Dataset:
    """The rows with numbered labels: 0 where something else than an animal did it."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_list([{**row, "label": int(row["label"] == "animal")} for row in rows], features)


def test_classes_of_a_data_set_go_by_their_names_in_its_order(tree: dict[str, Any], tmp_path: Path) -> None:
    summary = llmkit.fit(tree, train=classes(["plant", "animal"]), validation=classes(["plant", "animal"], ROWS[:16]))
    assert summary["labels"] == ["plant", "animal"]  # not by the alphabet
    numbers = [{**row, "label": int(row["label"] == "animal")} for row in ROWS]
    llmkit.fit({**tree, "output_dir": str(tmp_path / "plain")}, train=numbers, validation=numbers[:16])
    assert losses(tmp_path / "plain") == losses(tmp_path / "run")  # a name changes no number
    (said,) = llmkit.predict(tmp_path / "run", ["the cat saw the moon ."])
    assert said is not None and said["label"] in ("plant", "animal")
    found = llmkit.evaluate(tmp_path / "run", classes(["plant", "animal"]))
    assert found["metrics"] == pytest.approx(
        llmkit.evaluate(tmp_path / "plain", classes(["plant", "animal"]))["metrics"])  # which knows 0 and 1


def test_a_class_that_no_row_has_keeps_its_place(tree: dict[str, Any]) -> None:
    assert llmkit.fit(tree, train=classes(["plant", "animal", "stone"]))["labels"] == ["plant", "animal", "stone"]


def test_labels_of_the_recipe_stay_numbers(tree: dict[str, Any]) -> None:
    named = {**tree, "task": {"name": "classification", "labels": ["0", "1"]}}
    assert llmkit.fit(named, train=classes(["plant", "animal"]))["labels"] == ["0", "1"]


@pytest.mark.parametrize("bad", [
    {"text": b"bytes", "label": "other"}, {"text": {"a"}, "label": "other"}, 7, None, {1: "a"},
    {"text": "a\ud83d", "label": "other"}])
def test_what_json_cant_say_is_named_or_left_out(tree: dict[str, Any], tmp_path: Path, bad: Any) -> None:
    rows = [*ROWS[:20], bad, *ROWS[20:]]
    with pytest.raises(DataError, match="memory:train:21: "):
        llmkit.fit(tree, train=rows)
    skipping = {**tree, "data": {**tree["data"], "on_bad_row": "skip"}}
    assert llmkit.fit(skipping, train=rows)["bad_rows"] == 1
    assert "memory:train:21: " in (tmp_path / "run" / "bad_rows.txt").read_text()
    llmkit.fit({**skipping, "output_dir": str(tmp_path / "good")}, train=ROWS)
    assert losses(tmp_path / "run") == losses(tmp_path / "good")


def test_such_a_row_has_nothing_said_of_it(tree: dict[str, Any], tmp_path: Path) -> None:
    llmkit.fit(tree, train=ROWS)
    said = list(llmkit.predict(tmp_path / "run", [{"text": "a cat"}, {"text": b"a"}, {"text": "a dog"}],
                               on_bad_row="skip"))
    assert [one is None for one in said] == [False, True, False]
    found = llmkit.evaluate(tmp_path / "run", [*ROWS[:9], {"text": b"a", "label": "other"}], on_bad_row="skip")
    assert (found["rows"], found["bad_rows"]) == (9, 1)


def test_names_of_columns_in_the_recipe_are_those_of_the_rows(tree: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"said": row["text"], "text": "nothing", "who": row["label"]} for row in ROWS]
    fields = {"text": "said", "label": "who"}
    data = {**tree["data"], "train": [{"source": "rows.csv", "fields": fields}]}
    llmkit.fit({**tree, "data": data}, train=rows)
    llmkit.fit({**tree, "output_dir": str(tmp_path / "plain")}, train=ROWS)
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["data"]["train"][0]["fields"] == fields
    assert llmkit.evaluate(tmp_path / "run", rows)["rows"] == len(rows)


@pytest.mark.parametrize("how", ["dict", "path", "recipe"])
def test_names_that_the_rows_dont_have_change_nothing(tree: dict[str, Any], tmp_path: Path, how: str) -> None:
    (tmp_path / "rows.csv").write_text("said,who\na,b\nc,d\n")
    source = {"source": str(tmp_path / "rows.csv"), "fields": {"text": "said", "label": "who"}}
    asked: Any = {**tree, "data": {**tree["data"], "train": [source]}}
    if how == "path":
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asked))
        asked = tmp_path / "recipe.yaml"
    assert llmkit.fit(llmkit.load_recipe(asked) if how == "recipe" else asked, train=ROWS)["steps"] == 4
