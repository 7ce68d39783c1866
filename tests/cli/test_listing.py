"""What a command line lists: plug-ins, recipes, models, and commands with what each does."""

import json
import re

import pytest

from llmkit import recipe
from llmkit.cli import main
from llmkit.recipe import registry


@pytest.mark.parametrize(("command", "kind", "name", "about"), [
    ("methods", "tuning", "bias", "BitFit: only the biases train"), ("tasks", "tasks", "tagging", "Tagging: one tag"),
    ("objectives", "objectives", "span_corruption", "Span corruption: replace spans"),
    ("optimizers", "optimizers", "lion", "Lion: every weight moves by the rate"),
    ("families", "backbones", "gpt2", "GPT-2: a decoder that reads from left to right")])
def test_plug_ins_are_listed_with_a_line_each(
    command: str, kind: str, name: str, about: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.names(kind))
    assert all(re.fullmatch(r"\w+ +\S.+[.?)]", line) for line in lines)
    assert any(line.startswith(f"{name} ") and about in line for line in lines)
    assert main([command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert tuple(told) == registry.names(kind) and told[name].startswith(about)


def test_recipes_and_models_alone_are_their_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("recipes", "models"):
        for more in ([], ["--json"]):
            assert main([group, *more]) == main([group, "list", *more]) == 0
            told = capsys.readouterr().out
            assert told[: len(told) // 2] == told[len(told) // 2 :] != ""
    assert main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(recipe.packaged())


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_says_the_whole_of_what_each_command_does(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "..." not in shown.partition("Commands:")[2]
    words = " ".join(shown.split())
    assert "with a recipe, or with a model and data of your own." in words
    assert "quality, parameters, time, memory, size. Goes on where it stopped." in words
    longest = max(map(len, shown.splitlines()))
    assert longest <= columns and (columns < 200 or longest > 80)
