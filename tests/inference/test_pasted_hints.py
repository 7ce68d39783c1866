"""What is printed to be pasted works where it is printed: the columns of a file, said by `--set`."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

import llmkit
from llmkit import recipe
from llmkit.cli import main
from llmkit.data.fields import find_fields
from llmkit.data.sources import open_source
from llmkit.inference import verbs
from llmkit.recipe import Source
from llmkit.system.errors import DataError
from llmkit.training.fit import fit

STORIES = ("the old king saw the moon .", "a dog chased a red ball .")


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, labelled: Path, tagged: Path, questions: Path, summarized: Path,
    parallel: Path,
) -> dict[str, str]:
    """A run for each verb."""
    folder = tmp_path_factory.mktemp("runs")
    for verb, task, family, data in (
        ("classify", "classification", "bert", labelled), ("tag", "tagging", "bert", tagged),
        ("answer", "question_answering", "bert", questions), ("summarize", "summarization", "t5", summarized),
        ("translate", "translation", "t5", parallel),
    ):
        tree = tiny(family, data, folder / verb, max_steps=2)
        del tree["objective"]
        tree["data"]["max_length"] = 48
        tree["task"] = {"name": task, **({"max_new_tokens": 3} if family == "t5" else {})}
        fit(recipe.load(tree))
    return {path.name: str(path) for path in folder.iterdir()}


def hint(told: str) -> list[str]:
    """The options that an error says are to be pasted, as a shell reads them."""
    (found,) = re.findall(r"(--set data\.train='.*')\.$", told.strip().splitlines()[-1])
    return shlex.split(found)


def table(path: Path, **columns: Any) -> str:
    """A CSV of columns."""
    rows = zip(*columns.values(), strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("verb", "fields"), [
    ("classify", ("text",)), ("tag", ("tokens",)), ("summarize", ("text",)), ("translate", ("source",)),
    ("answer", ("question", "context")),
])
def test_a_verb_takes_the_hint_that_it_prints(verb, fields, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = {"question": ["who ?", "what ?"]}
    odd = table(tmp_path / "odd.csv", nr=["7", "8"],
                **{f"{name}_said": cells.get(name, STORIES) for name in fields})
    usual = table(tmp_path / "usual.csv", **{name: cells.get(name, STORIES) for name in fields})
    asked = [verb, Path(odd).name, "--model", runs[verb], "--json"]
    assert main(asked) == 3
    pasted = hint(capsys.readouterr().err)
    assert main([*asked, *pasted]) == 0
    told = json.loads(capsys.readouterr().out)["predictions"]
    assert main([verb, usual, "--model", runs[verb], "--json"]) == 0
    assert told == json.loads(capsys.readouterr().out)["predictions"]
    assert len(told) == 2


def test_score_takes_the_hint_that_it_prints(text, tmp_path, monkeypatch, capsys):
    fit(recipe.load(tiny("gpt2", text, tmp_path / "run", max_steps=1)))
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "odd.csv", nr=["7", "8"], remark=STORIES)
    asked = ["score", "odd.csv", "--model", "run"]
    assert main(asked) == 3
    pasted = hint(capsys.readouterr().err)
    assert main([*asked, *pasted, "-o", "scores.jsonl"]) == 0
    assert [json.loads(line)["text"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()] == [*STORIES]


@pytest.mark.parametrize(("command", "needle"), [
    (["classify", "a film .", "--set", "data.train.0.fields.text=t"], "there is no file 'a film .'"),
    (["classify", "odd.csv", "--set", "data.on_bad_row=skip"], "classify leaves no row out; `llmkit predict` does"),
    (["classify", "odd.csv", "--set", "data.max_length=9"], "here only how rows are read can be said"),
    (["answer", "who ?", "--context", "he .", "--set", "data.train=x"], "is for a file of rows, and --context is one"),
    (["answer", "who ?", "--in", ".", "--set", "data.train=x"], "files that are searched have no fields"),
    (["score", "a film .", "--set", "data.train=x"], "there is no file 'a film .'"),
])
def test_what_isnt_about_the_rows_of_a_file_is_refused(command, needle, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "odd.csv", nr=["7", "8"], remark=STORIES)
    assert main([*command, "--model", runs[command[0] if command[0] != "score" else "classify"]]) == 2
    assert needle in capsys.readouterr().err


def test_evaluate_and_predict_take_the_hint_and_fields_from_python(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "odd.csv", nr=["7", "8"], remark=STORIES, kind=["other", "animal"])
    table(tmp_path / "usual.csv", text=STORIES, label=["other", "animal"])
    measured, said = [], []
    assert main(["evaluate", runs["classify"], "--data", "odd.csv", "--json"]) == 3
    pasted = hint(capsys.readouterr().err)
    for file, more in (("odd.csv", pasted), ("usual.csv", [])):
        assert main(["evaluate", runs["classify"], "--data", file, "--json", *more]) == 0
        measured.append(json.loads(capsys.readouterr().out)["metrics"])
        assert main(["predict", runs["classify"], file, *more]) == 0
        said.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    fields = {"text": "remark", "label": "kind"}
    measured.append(llmkit.evaluate(runs["classify"], "odd.csv", fields=fields)["metrics"])
    said += [list(llmkit.predict(runs["classify"], "odd.csv", fields=fields)),
             [one for _, one in verbs.classify("odd.csv", runs["classify"], fields={"text": "remark"}).predictions]]
    assert measured == [measured[0]] * 3
    assert said == [said[0]] * 4


def test_a_hint_names_the_field_of_the_recipe_that_names_the_file(labelled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "odd.csv", nr=["7", "8"], remark=STORIES, kind=["other", "animal"])
    (tmp_path / "r.yaml").write_text(
        f"name: r\nbackbone: {{family: bert, size: tiny}}\ntokenizer: {{train: {{vocab_size: 300}}}}\n"
        f"data: {{train: [{labelled}, odd.csv], validation: odd.csv, max_length: 16}}\n"
        "task: {name: classification}\ntraining: {max_steps: 1}\noutput_dir: out\n")
    asked = ["finetune", "r.yaml"]
    for at in ("data.train.1", "data.validation"):
        assert main(asked) == 3
        (found,) = re.findall(rf"(--set {at}='.*')\.$", capsys.readouterr().err.strip().splitlines()[-1])
        asked += shlex.split(found)
    assert main(asked) == 0


def test_a_command_that_takes_no_columns_says_what_to_rename(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "odd.csv", nr=["7", "8"], remark=STORIES)
    reader = open_source(Source("odd.csv"), at="")
    with pytest.raises(DataError, match=r"Rename it in the file: 'remark' to 'text'\.$"):
        find_fields(["nr", "remark"], {"text": ()}, {}, reader)
