"""`make release`: a wheel that lacks something, or that its source archive doesn't build, isn't released."""

import re
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts import script
from test_dependencies import NAMES

from llmkit.system.machine import DISTRIBUTIONS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def release() -> ModuleType:
    return script(".ci/release.py")


@pytest.fixture
def files(release: ModuleType) -> dict[str, str]:
    """What a whole wheel holds."""
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "llmkit").rglob("*.py")]
    return dict.fromkeys([*modules, *release.CARRIED, "llmkit_train-0.1.0.dist-info/METADATA"], "")


def test_every_extra_has_its_imports_and_brings_what_is_imported(release: ModuleType) -> None:
    extras = {name: {Requirement(line).name.lower() for line in lines}
              for name, lines in PROJECT["optional-dependencies"].items() if name not in ("dev", "site")}
    brings = {name: {NAMES.get(module, module).lower().replace("_", "-") for module in modules}
              for name, modules in release.IMPORTS.items()}
    assert brings == {name: {one.replace("_", "-") for one in needs} for name, needs in extras.items()}


def test_extras_are_spelled_as_packages_have_them() -> None:
    """The wheel says adamw-8bit whatever is written here, and pip before 23.3 finds no other spelling in it."""
    assert [name for name in PROJECT["optional-dependencies"] if name != canonicalize_name(name)] == []


def test_the_name_is_one_that_the_registry_would_take() -> None:
    """PyPI takes names for the same whose letters are: l, i and 1; o and 0; and dashes, dots and underscores."""
    def alike(name: str) -> str:
        return re.sub("[li]", "1", re.sub("[-_.]", "", name.lower()).replace("o", "0"))

    assert PROJECT["name"] == re.sub("[-_.]+", "-", PROJECT["name"].lower()) == DISTRIBUTIONS[0]
    there = ("llm-kit", "llm-kit-pro", "llmkit-cli", "llmkit-py", "llmkit-python", "llmkit-rs", "llmkit-sdk")
    assert alike("llmkit") in map(alike, there) and alike(PROJECT["name"]) not in map(alike, there)


def test_messages_and_pages_name_it_where_they_say_what_to_install() -> None:
    folders = [path for folder in ("llmkit", "docs", "recipes", "examples") for path in (ROOT / folder).rglob("*")]
    texts = {path: path.read_text() for path in folders if path.suffix in (".py", ".md", ".yaml", ".po")}
    old = {str(path): found for path, text in texts.items() if (found := re.findall(r"llmkit\[[a-z_{,0-9]+\]", text))}
    assert old == {}
    extras = {extra for text in texts.values() for names in re.findall(r"llmkit-train\[([a-z0-9,-]+)\]", text)
              for extra in names.split(",")}
    assert extras - set(PROJECT["optional-dependencies"]) == set()


def wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return path


def test_a_whole_wheel_is_released(release: ModuleType, files: dict[str, str], tmp_path: Path) -> None:
    release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", files))


@pytest.mark.parametrize(("lost", "said"), [
    ("llmkit/py.typed", "the wheel lacks llmkit/py.typed"),
    ("llmkit/training/fit.py", "the wheel lacks llmkit/training/fit.py"),
])
def test_a_wheel_that_lacks_a_file_is_not(
    lost: str, said: str, release: ModuleType, files: dict[str, str], tmp_path: Path,
) -> None:
    del files[lost]
    with pytest.raises(SystemExit, match=said):
        release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", files))


def test_a_wheel_that_holds_what_is_not_the_package_is_not(
    release: ModuleType, files: dict[str, str], tmp_path: Path,
) -> None:
    files["tests/conftest.py"] = ""
    with pytest.raises(SystemExit, match=r"the wheel holds tests/conftest\.py"):
        release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", files))


def test_a_source_archive_that_builds_another_wheel_is_not(
    release: ModuleType, files: dict[str, str], tmp_path: Path,
) -> None:
    other = {**files, "llmkit/__init__.py": "x = 1"}
    with pytest.raises(SystemExit, match=r"builds another wheel: llmkit/__init__\.py"):
        release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", other))
