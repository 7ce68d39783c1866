"""The pages' commands are commands, and their recipes recipes: nothing is run here, so that every page is looked at."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from llmkit import recipe as recipes
from llmkit.cli import FOR_SHELLS, app
from llmkit.recipe.reading import value

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", ROOT / "examples/plugin/README.md",
                *(path for path in (ROOT / "docs").rglob("*.md") if "book" not in path.parts)])
SECTIONS = "backbone|tokenizer|data|objective|task|tuning|optimizer|teacher|training|prompting"


def commands(page: str) -> Iterator[str]:
    """The lines of a page's code, and the cells of its tables, that begin with llmkit; two may stand side by side."""
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    cells = [cell for row in re.findall(r"^\|.*\|$", page, re.MULTILINE) for cell in re.findall("`([^`]+)`", row)]
    for line in [*(line for block in blocks for line in block.replace("\\\n", " ").splitlines()), *cells]:
        for piece in re.split(r" {3,}(?=llmkit )", line):
            if found := re.fullmatch(r"(?:\w+=\S+ )*llmkit (\S.*)", piece):
                yield re.split(r" (?:\||>|&)(?: |$)", found[1])[0]


@cache
def llmkit() -> Any:
    """The program, with the options of all of its commands: a tenth of a second."""
    return get_command(app)


def parse(line: str) -> None:
    """Read a command's words as the command line does; whatever is no command or option raises."""
    words, command = shlex.split(line, comments=True), llmkit()
    words = words[: words.index("--")] if "--" in words else words
    if words[0] in {name for option in command.params for name in option.opts if name in FOR_SHELLS}:
        return  # to read it is to run it: it writes into the shell's own file, or ends with 1 without a shell
    command.make_context("llmkit", list(words))
    while words and (below := getattr(command, "commands", None)) is not None:
        name, *words = words
        if not name.startswith("-"):
            command = below[name]
    if words or not getattr(command, "commands", None):
        command.make_context(command.name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_one(page: Path) -> None:
    wrong = []
    for line in commands(page.read_text()):
        try:
            parse(line)
        except Exception as error:  # typer's copy of click has classes of its own
            wrong.append(f"llmkit {line}: {type(error).__name__} {error}")
    assert wrong == []


@pytest.mark.parametrize("line", ["pretrain", "pretrian a.yaml", "pretrain a.yaml --sett b=1", "models drop x"])
def test_what_is_no_command_is_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"Missing parameter|No such|pretrian|drop"):
        parse(line)


MIGRATION = (ROOT / "docs" / "migration.md").read_text()
FILES = dict(re.findall(r"^```yaml (\S+\.yaml)\n(.*?)^```", MIGRATION, re.MULTILINE | re.DOTALL))
MODELS = {"sft.yaml": "Qwen/Qwen3-4B-Instruct-2507"}


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_of_the_migration_page_is_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    recipe = recipes.load(tmp_path / name)
    assert recipe.backbone.pretrained == MODELS.get(name)
    assert recipe.output_dir == f"runs/{name.removesuffix('.yaml')}"


def fragments() -> list[tuple[str, dict[str, Any]]]:
    """The pieces of recipes in the last column of the page's tables; capital letters stand for anything."""
    found = []
    for cell in re.findall(r"^\|.*\| (.*) \|$", MIGRATION, re.MULTILINE):
        for text in re.findall(rf"`((?:{SECTIONS}): [^`]+)`", cell):
            tree = value(re.sub(r"\bN\b", "8", text), text)
            found.append((text, tree))
    return found


def test_the_fields_that_the_migration_page_names_are_there() -> None:
    validator = jsonschema.Draft202012Validator(recipes.schema())
    assert len(fragments()) > 30
    wrong = {text: [error.message[:100] for error in validator.iter_errors({"base": "bert_mlm", **tree})][:1]
             for text, tree in fragments() if not validator.is_valid(
                 {"base": "bert_mlm", **tree} if isinstance(tree, dict) else tree)}
    assert wrong == {}


def test_the_files_of_settings_of_others_are_read_as_such() -> None:
    theirs = re.findall(r"^```yaml theirs\n(.*?)^```", MIGRATION, re.MULTILINE | re.DOTALL)
    assert [yaml.safe_load(text)["stage"] for text in theirs] == ["sft"]
