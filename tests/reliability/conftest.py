"""What the reliability tests share: a server of commands, recipes that train in a second, and what they end as."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from learning import LEARNING, ROWS

from reliability import runs
from reliability.commands import Server

Tree = dict[str, Any]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> Iterator[Server]:
    """Starts commands in processes of their own; see commands.py."""
    made = Server(tmp_path_factory.mktemp("said"), {"LLMKIT_CACHE": os.environ["LLMKIT_CACHE"]})
    yield made
    made.stop()


@pytest.fixture
def llmkit(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """`llmkit.run("pretrain", path)` in an empty folder: the command's status, outputs and last line."""
    monkeypatch.chdir(tmp_path)
    return server


@pytest.fixture
def tree(text: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Tree]:
    """`tree("masked_lm", "name", max_steps=3)`: a tiny recipe of 12 steps over one and a half epochs, dropout on.

    It saves every 5 steps, evaluates every 4, and leaves its run in the folder `name` of the test's own.
    """
    def make(case: str = "masked_lm", name: str = "run", still: bool = False, **training: Any) -> Tree:
        family, block = LEARNING[case]
        data = request.getfixturevalue(ROWS[case]) if case in ROWS else text
        plan = {"max_steps": 12, "save_steps": 5, "eval_steps": 4, "global_batch_size": 16, "micro_batch_size": 8}
        made = tiny(family, data, tmp_path / name, still, **{**plan, **training})
        del made["objective"]
        made["data"]["validation"] = 0.2
        return {**made, "task" if data is not text else "objective": block}

    return make


@pytest.fixture(scope="session")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that nothing disturbed, by their recipe."""
    return {"": tmp_path_factory.mktemp("wholes")}


@pytest.fixture
def whole(llmkit: Server, wholes: dict[str, Path]) -> Callable[..., Path]:
    """`whole(tree)`: the folder of the same recipe's run that nothing disturbed."""
    def make(tree: Tree, processes: int = 1) -> Path:
        key = json.dumps([{**tree, "output_dir": ""}, processes], sort_keys=True)
        if key not in wholes:
            folder = wholes[""] / hashlib.sha256(key.encode()).hexdigest()[:12]  # also of one that failed before
            path = runs.write({**tree, "output_dir": str(folder)})
            done = llmkit.run_all("pretrain", path, processes=processes)
            assert done.status == 0, done.err
            wholes[key] = folder
        return wholes[key]

    return make


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there in the end."""
    path = tmp_path / "touched"
    os.system(f"true > '{path}'; rm '{path}'")
    yield path
    assert not path.exists(), "a payload ran"


@pytest.fixture(scope="session")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory, text: Path, labelled: Path) -> dict[str, Path]:
    """Finished runs: a GPT-2, a classifier with LoRA over it, and a model with a network beside it."""
    folder = tmp_path_factory.mktemp("trained")
    decoder = tiny("gpt2", text, folder / "gpt2", max_steps=2, save_steps=1)
    rtd = tiny("electra", text, folder / "rtd", max_steps=1)
    rtd["objective"] = {"name": "replaced_token"}
    adapter = {**tiny("gpt2", labelled, folder / "adapter", max_steps=1), "backbone": {
        "pretrained": str(folder / "gpt2")}, "task": "classification", "tuning": {"method": "lora"}}
    for name in ("objective", "tokenizer"):
        del adapter[name]
    for tree in (decoder, rtd, adapter):
        done = server.run("pretrain", runs.write(tree), cwd=folder)
        assert done.status == 0, done.err
    return {name: folder / name for name in ("gpt2", "rtd", "adapter")}


@pytest.fixture
def copy(trained: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run to spoil."""
    def make(name: str) -> Path:
        shutil.copytree(trained[name], tmp_path / name)
        return tmp_path / name

    return make
