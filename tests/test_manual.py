"""The commands' own pages, for man and for the site: all of what --help says, as each of both shows it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from scripts import script

from llmkit.cli import main

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    return script("docs/manual.py")


@pytest.fixture(scope="module")
def commands(manual: ModuleType) -> dict[str, Any]:
    return dict(manual.commands())


def test_every_command_has_a_page(commands: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out.partition("Commands:")[2], re.MULTILINE)
    assert len(listed) > 30
    assert {f"llmkit {name}" for name in listed} <= set(commands)
    assert {"llmkit", "llmkit models pull", "llmkit recipes copy", "llmkit runs compare"} <= set(commands)


@pytest.mark.parametrize("name", ["predict", "serve", "recipes copy"])
def test_a_page_says_all_that_help_says(
    name: str, manual: ModuleType, commands: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*name.split(), "--help"]) == 0
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    site, man = (form(f"llmkit {name}", commands[f"llmkit {name}"], *more) for form, more in (
        (manual.markdown, ()), (manual.man, ("0.1",))))
    assert options and all(option in site and option.replace("-", r"\-") in man for option in options)


def test_what_troff_would_take_for_its_own_is_shown_as_it_is(manual: ModuleType) -> None:
    assert manual.troff(".csv - or …") == r"\&.csv \- or \[u2026]"
    assert manual.troff(r"a\nb") == r"a\enb"
    assert manual.plain("a_b <c> `d_e`") == r"a\_b \<c\> `d_e`"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff shows a page as man does, and isn't here")
def test_groff_has_nothing_to_say_of_the_pages(manual: ModuleType, commands: dict[str, Any]) -> None:
    pages = "".join(manual.man(name, command, "0.1") for name, command in commands.items())
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=pages.encode(), capture_output=True, check=True)
    assert done.stderr == b""
    assert b"llmkit models pull [OPTIONS]" in done.stdout


def test_the_page_on_installing_names_every_extra_and_what_it_brings() -> None:
    rows = re.findall(r"^\| (`.*`) \| (.*) \| .* \|$", (ROOT / "docs" / "installing.md").read_text(), re.MULTILINE)
    named = {extra: set(brings.split(", ")) for extras, brings in rows for extra in re.findall("`([^`]+)`", extras)}
    assert set(named) == set(EXTRAS)
    for extra, lines in EXTRAS.items():
        needs = {Requirement(line).name for line in lines}
        assert extra == "dev" or needs <= named[extra] or named[extra] == {"the tracker of that name"}, extra


def test_the_pages_are_written_into_a_folder(manual: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             commands: dict[str, Any]) -> None:
    monkeypatch.setattr(sys, "argv", ["manual.py", str(tmp_path / "man")])
    assert manual.main() == 0
    assert {path.name for path in (tmp_path / "man").iterdir()} == {
        f"{name.replace(' ', '-')}.1" for name in commands}
