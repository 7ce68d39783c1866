"""The worked examples of CONTRIBUTING.md: each is one file, and its commands work in a copy of the tree that has it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
KINDS = ("objective", "tuning method", "optimizer", "task", "family", "prompt mode", "format of data",
         "format of export")
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DRIVER = """
import json, shlex, sys
from llmkit.cli import main
print(json.dumps([main(shlex.split(line)[1:]) for line in json.load(open("commands.json"))]), file=sys.stderr)
"""


@dataclass(frozen=True)
class Example:
    """A section of the page."""

    files: dict[str, str]
    """By path: modules, recipes and rows."""
    commands: list[str]

    @property
    def modules(self) -> list[str]:
        return [path for path in self.files if path.endswith(".py")]


def examples() -> dict[str, Example]:
    """By kind, what the sections "A new …" hold."""
    found = {}
    for section in (ROOT / "CONTRIBUTING.md").read_text().split("\n## ")[1:]:
        if heading := re.match(r"A new ([a-z ]+): 1 file(, and a recipe)?\n", section):
            fences = FENCE.findall(section)
            commands = [line for kind, _, text in fences if kind == "sh" for line in text.splitlines()]
            found[heading[1]] = Example({path: text for _, path, text in fences if path}, commands)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with every example in it, after all of their commands."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("llmkit", "recipes"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "english.txt", tree / "docs")
    for path, text in ((path, text) for example in examples().values() for path, text in example.files.items()):
        assert not (tree / path).exists(), f"{path} is there already"
        (tree / path).write_text(text)
    commands = [command for example in examples().values() for command in example.commands]
    (tree / "commands.json").write_text(json.dumps(commands))
    done = subprocess.run([sys.executable, "-c", DRIVER], cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
                          capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.rstrip().rpartition("\n")[2]) == [0] * len(commands), done.stderr
    return tree


def summary(tree: Path, run: str) -> dict[str, object]:
    """What a run left."""
    return dict(json.loads((tree / "runs" / run / "summary.json").read_text()))


def test_there_is_an_example_of_each_kind_and_each_is_one_module() -> None:
    assert tuple(examples()) == KINDS
    for example in examples().values():
        assert len(example.modules) == 1
        assert example.modules[0].startswith("llmkit/")
        assert example.commands
        for command in example.commands:
            assert shlex.split(command)[0] == "llmkit"


def test_the_examples_keep_to_the_rules_of_the_code(tree: Path) -> None:
    modules = [module for example in examples().values() for module in example.modules]
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run([*ruff, *modules], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_new_objective_trains(tree: Path) -> None:
    assert summary(tree, "backward_lm")["steps"] == 3


def test_the_new_method_trains_the_table_of_tokens_alone(tree: Path) -> None:
    assert summary(tree, "embeddings")["trainable_parameters"] == 300 * 128


def test_the_new_optimizer_keeps_three_numbers_a_weight(tree: Path) -> None:
    import torch

    file = tree / "runs" / "amsgrad" / "checkpoints" / "step-00000003" / "optimizer.pt"
    kept = torch.load(file, weights_only=True)["state"].values()
    assert {frozenset(state) for state in kept} == {
        frozenset({"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"})}


def test_the_new_task_says_something_of_every_row(tree: Path) -> None:
    said = [json.loads(line) for line in (tree / "said.jsonl").read_text().splitlines()]
    assert len(said) == 8
    assert {type(one["acceptable"]) for one in said} == {bool}
    assert all(0 < one["score"] < 1 for one in said)


def test_the_new_family_trains(tree: Path) -> None:
    config = json.loads((tree / "runs" / "gpt_neox" / "model" / "config.json").read_text())
    assert config["model_type"] == "gpt_neox"
    assert summary(tree, "gpt_neox")["status"] == "completed"


def test_the_new_format_of_data_is_read_row_by_row(tree: Path) -> None:
    said = [json.loads(line) for line in (tree / "subtitles.jsonl").read_text().splitlines()]
    assert len(said) == 2
    assert {type(one["acceptable"]) for one in said} == {bool}


def test_the_new_format_of_export_holds_the_weights(tree: Path) -> None:
    weights = np.load(tree / "exported" / "model.npz")
    assert weights["transformer.wte.weight"].shape == (300, 128)
    assert weights["transformer.wte.weight"].dtype == np.float16
    assert 'np.load("model.npz")' in (tree / "exported" / "README.md").read_text()
