"""The package as Python and its tools meet it: names for Tab, types for checkers, figures for registries."""

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import llmkit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_tab_lists_the_public_names_and_each_is_there() -> None:
    assert dir(llmkit) == sorted(llmkit.__all__)
    for name in dir(llmkit):
        assert callable(getattr(llmkit, name))


def test_tab_imports_nothing() -> None:
    code = "import sys, llmkit; dir(llmkit); print([name for name in sys.modules if name.startswith('llmkit.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_type_checkers_of_other_projects_read_our_types() -> None:
    assert (ROOT / "llmkit" / "py.typed").read_text() == ""
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_citation_has_the_version_and_the_address_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["abstract"] == PROJECT["description"]


def test_the_changelog_has_the_version_and_says_what_it_changes_in_numbers_and_resume() -> None:
    log = (ROOT / "CHANGELOG.md").read_text()
    versions = log.split("\n## ")[1:]
    assert versions[0].startswith("[Unreleased]")
    assert versions[1].startswith(f"[{PROJECT['version']}]")
    for version in versions:
        assert "\n### Numbers changed\n" in version
        assert "\n### Resume changed\n" in version


def test_the_workflow_runs_what_people_run_on_each_python_that_is_named() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    linux = workflow["jobs"]["linux"]
    named = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if ":: 3." in line]
    assert linux["strategy"]["matrix"]["python"] == named
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert all(line.startswith("make ") for command in commands for line in command.splitlines())
