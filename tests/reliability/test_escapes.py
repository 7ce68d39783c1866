"""E: what strangers wrote is printed, and steers no terminal: labels, headers, names of files, recipes, answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import stories, tiny, write_rows

from llmkit.cli import chat, main
from llmkit.inference import generate as generation
from llmkit.inference.writing.completion import Completion
from reliability import runs

pytestmark = [pytest.mark.reliability, pytest.mark.quick]

ESCAPE = "\x1b]0;pwned\x07\x1b[2J"
SHOWN = r"\x1b]0;pwned\x07\x1b[2J"
STEERS = ("\x1b", "\x07", "\x9b", "\u202e", "\r")


def steers(text: str) -> list[str]:
    return [one for one in STEERS if one in text]


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a command."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two labels; one clears the screen, both say more than a line."""
    folder = tmp_path_factory.mktemp("labels")
    rows = write_rows(folder / f"rows {ESCAPE}.jsonl", [
        {"text": one, "label": ["b\u202e|c\x9b", f"{ESCAPE}a\n---\n<script>alert(1)</script>"][i % 2]}
        for i, one in enumerate(stories(40))])
    tree = {**tiny("bert", rows, folder / "run", max_steps=2), "task": "classification"}
    del tree["objective"]
    assert main(["finetune", str(runs.write(tree))]) == 0
    return folder


# ---- labels, headers, names ----

@pytest.mark.parametrize("words", [
    ("classify", "the cat"), ("classify", "the cat\x1b[2J"), ("evaluate", "--data"), ("predict",)], ids=str)
def test_labels_are_shown(words: tuple[str, ...], classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (rows,), run = classifier.glob("*.jsonl"), classifier / "run"
    more = {"classify": [*words, "--model", run], "evaluate": ["evaluate", run, "--data", rows],
            "predict": ["predict", run, rows]}[words[0]]
    status, out, err = said(capsys, *more)
    assert (status, steers(out), steers(err)) == (0, [], [])
    if words[0] == "predict":  # JSON is exact
        labels = {json.loads(line)["label"] for line in out.splitlines()}
        assert labels <= {"b\u202e|c\x9b", f"{ESCAPE}a\n---\n<script>alert(1)</script>"}
    if words[0] == "classify":
        assert out.count("\n") == 1 and (r"b\u202e|c\x9b  " in out or SHOWN in out)


def test_labels_are_shown_in_the_log_of_a_run(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, "finetune", classifier / "run.yaml", "--output-dir", classifier / "again")
    assert status == 0 and not steers(err)
    assert SHOWN in err  # of the file's name, at least


def test_the_card_of_a_run_has_no_html_of_a_files_name(classifier: Path) -> None:
    rows = classifier / "x` <img src=x onerror=alert(1)>.jsonl"
    shutil.copy(next(classifier.glob("rows*.jsonl")), rows)
    tree = {**yaml.safe_load((classifier / "run.yaml").read_text()), "output_dir": str(classifier / "html")}
    tree["data"]["train"] = str(rows)
    assert main(["finetune", str(runs.write(tree))]) == 0
    card = (classifier / "html" / "README.md").read_text()
    assert "<img" not in card.split("```yaml")[0] and "onerror" not in card.split("```yaml")[0]
    assert "- data: ``" in card and not steers(card)


@pytest.mark.parametrize(("name", "content", "shown"), [
    ("x.csv", f"te{ESCAPE}xt,lab{ESCAPE}el\na,b\nc,d\n", SHOWN),
    (f"x{ESCAPE}\nllmkit: error: all is well.jsonl", "{bad\n", SHOWN),
    ("x.jsonl", '{"text": {"\\u001b]0;pwned\\u0007": 1}, "label": 1}\n{"text": "a", "label": "b"}\n', "x.jsonl:1"),
    ("x\x9b2J.jsonl", "{bad\n", r"x\x9b2J.jsonl"), ("x\u202etxt.jsonl", "{bad\n", r"x\u202etxt.jsonl"),
    ("x.csv", "te\x9bxt,la\u202ebel\na,b\n", r"\u202e"), ("x\ry.jsonl", "[1]\n", "x"),
], ids=["header", "name", "value", "c1", "bidi", "c1-header", "cr"])
def test_errors_show_it(
    name: str, content: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    tree = {**tiny("bert", tmp_path / name, tmp_path / "run"), "task": "classification"}
    del tree["objective"]
    status, out, err = said(capsys, "finetune", runs.write(tree))
    assert (status, out, steers(err)) == (3, "", [])
    assert len([line for line in err.splitlines() if line.startswith("llmkit: error:")]) == 1
    assert shown in err.splitlines()[-1]


@pytest.mark.parametrize("recipe", [
    'name: "a"\nobjective: "\\e]0;pwned\\a"\ndata: {train: x}\n', 'name: a\n"\\e[2J\\x9b": 1\n',
    'objective: masked_lm\ndata: {train: "x\\e[2J\\u202e"}\nbackbone: bert\n'], ids=["value", "key", "path"])
def test_a_recipes_values_are_shown(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(recipe)
    status, _, err = said(capsys, "pretrain", tmp_path / "r.yaml")
    assert status in (2, 3) and not steers(err) and "x1b" in err


def test_the_command_line_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, "classify", "the cat", "--model", "no\x1b[2Jmodel\u202e")
    assert status in (2, 3, 4) and not steers(err) and r"no\x1b[2Jmodel\u202e" in err
    status, _, err = said(capsys, "generate", "a", "--no\x1b[2J", "--debug")
    assert status == 2 and not steers(err) and "Traceback" in err


def test_rows_that_are_left_out_are_listed_in_plain_writing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [{"text": one, "label": i % 2} for i, one in enumerate(stories(40))]
    rows = write_rows(tmp_path / "rows\x1b[2J.jsonl", [{"text": "a\x1b", "label": {"\x1b[2J": 1}}, *good])
    tree = {**tiny("bert", rows, tmp_path / "run", max_steps=1), "task": "classification"}
    tree["data"]["on_bad_row"] = "skip"
    del tree["objective"]
    status, _, err = said(capsys, "finetune", runs.write(tree))
    listed = (tmp_path / "run" / "bad_rows.txt").read_text()
    assert status == 0 and not steers(err) and not steers(listed)
    assert r"rows\x1b[2J.jsonl:1" in listed and listed.count("\n") == 1


# ---- answers ----

PIECES = ["a\x1b", "[2Jb\r", "\nc\x9b", "\u202e", "猫\r"]
WHOLE = "a\\x1b[2Jb\nc\\x9b\\u202e猫\\r\n"


def test_an_answer_that_is_written_in_pieces_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generate(prompt: str, model: str, options: Any, stream: Any = None, **_: Any) -> generation.Result:
        for piece in PIECES if stream is not None else ():
            stream(piece)
        return generation.Result(prompt, model, [Completion("".join(PIECES), 5, "length")])

    monkeypatch.setattr(generation, "generate", generate)
    status, out, told = said(capsys, "generate", "x")
    assert (status, out) == (0, WHOLE) and not steers(told)
    status, out, _ = said(capsys, "generate", "x", "--json")
    assert status == 0 and not steers(out) and json.loads(out)["completions"][0]["text"] == "".join(PIECES)


@pytest.mark.parametrize("columns", [None, 4, 80])
def test_an_answer_of_a_chat_is_shown(columns: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    printer = chat._Printer() if columns is None else chat._Page(columns, len)
    for piece in ["  ", *PIECES]:
        printer(piece)
    printer.finish()
    out = capsys.readouterr().out
    assert not steers(out) and out.replace("\n", "") == WHOLE.replace("\n", "")
    assert columns == 4 or out == WHOLE.removesuffix("\n")


def test_notes_of_a_chat_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    chat.note("2 messages: a\x1b[2J\nb")
    assert capsys.readouterr().err == "2 messages: a\\x1b[2J\nb\n"
