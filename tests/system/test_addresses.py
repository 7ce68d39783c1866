"""Paths in a home, and names that only begin like one."""

import os
from pathlib import Path

import pytest
from conftest import tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.system.addresses import at_home
from llmkit.training.fit import fit


@pytest.mark.parametrize(("given", "path"), [
    ("~", "{home}"), ("~/a.txt", "{home}/a.txt"), ("~.csv", "~.csv"), ("a/~", "a/~"), ("~~", "~~"),
    ("~nobody-is-called-so/x", "~nobody-is-called-so/x")])
def test_a_tilde_is_a_home_where_somebody_has_it(given: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert at_home(given) == Path(path.format(home="/home/me"))


def test_files_whose_names_begin_so_are_read_and_written(
        text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~.txt").write_text(text.read_text())
    given = {**tiny("gpt2", Path("~.txt"), Path("~run"), max_steps=1)}
    fit(recipe.load(given))
    assert os.path.isdir("~run/model")
    assert main(["evaluate", "~run", "--data", "~.txt"]) == 0
    assert main(["export", "~run", "--to", "~out"]) == 0
    assert Path("~out/model.safetensors").is_file()
    for words in (["generate", "a", "--model", "~none/x"], ["evaluate", "~run", "--data", "~none.txt"],
                  ["runs", "list", "~none"], ["pretrain", "~none.yaml"]):
        assert main(words) in (2, 3, 4)
        assert "~none" in capsys.readouterr().err.splitlines()[-1]
