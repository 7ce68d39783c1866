"""The dependencies: what is imported is declared, what is declared is imported, and all of it has a tested version."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = {
    "fontTools": "fonttools", "PIL": "pillow",
    "faiss": "faiss-cpu", "liger_kernel": "liger-kernel", "prometheus_client": "prometheus-client",
    "rouge_score": "rouge-score", "sklearn": "scikit-learn", "yaml": "PyYAML",
}
"""Distributions that are called otherwise than what is imported from them."""
TRACKERS = ("aim", "clearml", "comet-ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")
UNIMPORTED = {
    "pylopdf-fonts-zh-cn": "its folder is looked into for fonts",
    "onnx": "torch.onnx.export asks for it", **dict.fromkeys(TRACKERS, "accelerate's tracker asks for it"),
    "mypy": "`make check` runs it", "ruff": "`make check` runs it", "types-pyyaml": "mypy reads it",
    **dict.fromkeys(("s3fs", "ossfs", "requests"), "fsspec asks for it where an address does"),
    "pytest-timeout": "pytest loads it", "pytest-xdist": "pytest loads it",
    "mkdocs": "`make site` runs it", "mkdocs-material": "mkdocs' theme", "mkdocstrings": "mkdocs loads it",
}
"""Distributions that no module of ours imports, and who asks for them."""
UNDECLARED = {
    **dict.fromkeys(("boto3", "moto", "s3fs"), "108 MB for a store of objects; its slow test is skipped without it"),
    "requests": "fsspec's way to WebHDFS, the extra `hdfs`; its test is skipped without it",
    "llama_cpp": "built from source in minutes; its tests are skipped without it",
    "mkdocs": "builds the site: the extra `site`",
    "sentence_transformers": "what `embed` is measured beside",
    "schedulefree": "what our own schedule_free is compared with, where it is there",
}
"""What tests use where it is there, and nobody has to install."""
UNTESTED = {*TRACKERS, "s3fs", "ossfs"}
"""Distributions that no test runs with: no version of them is a tested one."""


def declared(*extras: str) -> set[str]:
    """Names in pyproject.toml, in lower case: the package's own, and those of extras."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return {Requirement(line).name.lower() for line in lines}


@cache
def modules(path: Path) -> frozenset[str]:
    """The roots of what a file imports: see `imports`."""
    return frozenset(imports(path))


def imports(path: Path) -> Iterator[str]:
    """The roots of what a file imports, wherever in it, and of what it asks pytest or importlib for by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "importorskip":
            yield ast.literal_eval(node.args[0]).split(".")[0]


def imported(*folders: str) -> dict[str, str]:
    """Distributions that the modules of folders import, in lower case, each with a file that does."""
    ours = {"llmkit", "benchmarks", "reliability", "fakecuda", "agent", "llmkit_backward", "manual",
            *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {NAMES.get(name, name).lower(): str(path.relative_to(ROOT)) for path in paths for name in modules(path)
            if name not in sys.stdlib_module_names and name not in ours}


EXTRAS = [name for name in PROJECT["optional-dependencies"] if name != "dev"]


def test_what_the_package_imports_is_declared() -> None:
    missing = {name: path for name, path in imported("llmkit").items() if name not in declared(*EXTRAS)}
    assert missing == {}


def test_what_the_package_declares_is_imported() -> None:
    assert declared(*EXTRAS) - set(imported("llmkit")) - set(UNIMPORTED) == set()


def test_what_tests_examples_and_benchmarks_import_is_declared() -> None:
    used = imported("tests", "examples", "benchmarks", "docs")
    missing = {name: path for name, path in used.items() if name not in declared("dev") | set(UNDECLARED)}
    assert missing == {}


def test_what_is_declared_for_tests_is_used() -> None:
    used = set(imported("llmkit", "tests", "examples", "benchmarks", "docs"))
    assert declared("dev") - used - set(UNIMPORTED) == set()


def test_what_is_said_to_be_asked_for_by_others_is_declared_and_not_imported() -> None:
    assert set(UNIMPORTED) <= declared("dev", *EXTRAS)
    assert set(UNIMPORTED) & set(imported("llmkit")) == set()


@pytest.mark.parametrize("line", sorted({*PROJECT["dependencies"], *(
    line for lines in PROJECT["optional-dependencies"].values() for line in lines)}))
def test_a_dependency_has_a_tested_version_that_is_in_its_range(line: str) -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    tested = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    need = Requirement(line)
    if need.name in UNTESTED:
        assert need.name not in tested
    else:
        assert need.specifier.contains(tested[need.name.lower().replace("_", "-")])
