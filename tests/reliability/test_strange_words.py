"""Words of a command that mean nothing, a file that is read and written at once, JSON that is nested without end."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.data import jsonlines
from llmkit.inference.constraining.schema import _unheld
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    fit(recipe.load(tiny("bert", text, folder, max_steps=2, save_steps=1)))
    return folder


@pytest.mark.parametrize(("words", "error"), [
    (["answer", "how?", "--context", ""], "--context: is empty"),
    (["answer", "how?", "--context", " \n"], "--context: is empty"),
    (["pretrain", "bert_mlm", "--resume", ""], "--resume: is empty"),
    (["predict", "minilm-l6", "rows.jsonl", "-o", ""], "--output: is empty"),
])
def test_an_empty_word_is_named(words: list[str], error: str, capsys: pytest.CaptureFixture[str],
                                tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    if words[0] == "predict":
        with pytest.raises(RequestError, match=error):
            jsonlines.place("", ["rows.jsonl"])
        return
    assert main(words) == 2
    assert f"llmkit: error: {error}" in capsys.readouterr().err


def test_the_file_that_stdin_reads_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, linked = tmp_path / "rows.jsonl", tmp_path / "linked.jsonl"
    rows.write_text('{"text": "a"}\n')
    linked.symlink_to(rows)
    with rows.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        for output in (rows, linked):
            with pytest.raises(RequestError, match="it is a file that is read here, and would be lost"):
                jsonlines.place(str(output), ["-"])
        assert jsonlines.place(str(tmp_path / "other.jsonl"), ["-"]) == tmp_path / "other.jsonl"
        (tmp_path / "third.jsonl").write_text("")
        assert jsonlines.place(str(tmp_path / "third.jsonl"), ["-"]) == tmp_path / "third.jsonl"


@pytest.mark.parametrize("file", ["MANIFEST.json", "status.json", "summary.json"])
def test_brackets_without_end_in_a_runs_folder_are_damage(
        file: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    place = folder / "checkpoints" / "step-00000002" if file == "MANIFEST.json" else folder
    (place / file).write_text("[" * 100_000)
    words = ["pretrain", str(folder / "recipe.yaml"), "--output-dir", str(folder)]
    status = main([*words, "--resume", str(place)] if file == "MANIFEST.json" else ["runs", "list", str(tmp_path)])
    said = capsys.readouterr().err
    assert "unforeseen" not in said
    assert status == (4 if file == "MANIFEST.json" else 0)
    if file == "MANIFEST.json":
        assert "MANIFEST.json is damaged" in said


def test_a_recipe_that_unfolds_without_end_is_not_unfolded(
        run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (folder / "recipe.yaml").write_text("\n".join(lines))
    assert main(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 0
    assert "a recipe has no aliases" in capsys.readouterr().err


@pytest.mark.parametrize("schema", [
    {"type": "integer", "minimum": 10**400}, {"enum": [10**30]}, {"const": "\ud800"}])
def test_a_schema_that_cannot_be_written_is_told(schema: dict[str, object]) -> None:
    pytest.importorskip("llguidance")
    assert "it can't be written as JSON" in _unheld(schema)
    assert json.dumps(schema)


@pytest.mark.parametrize("began", [True, False])
def test_a_pipe_in_the_place_of_a_lock_is_not_waited_for(
        began: bool, run: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    if began:
        shutil.copytree(run, folder)
        (folder / ".lock").unlink(missing_ok=True)
    else:
        folder.mkdir()
    os.mkfifo(folder / ".lock")
    tree = tiny("bert", text, folder, max_steps=2, save_steps=1)
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    assert main(["pretrain", str(tmp_path / "recipe.yaml")]) == 6
    assert ".lock" in capsys.readouterr().err


def test_a_line_feed_in_a_folders_name_makes_no_line(
        text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny("bert", text, tmp_path / "a\nllmkit: error: b", max_steps=1)
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    assert main(["pretrain", str(tmp_path / "recipe.yaml")]) == 0
    assert not [line for line in capsys.readouterr().err.splitlines() if line.startswith("llmkit: error")]


def test_no_query_on_stdin_is_told(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], encoder: Path) -> None:
    (tmp_path / "notes.txt").write_text("The cat sat on the mat.\n")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n \n")))
    assert main(["search", "-", "--in", str(tmp_path / "notes.txt"), "--model", str(encoder)]) == 3
    assert "stdin: no query stands there" in capsys.readouterr().err
