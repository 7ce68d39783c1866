"""M: two machines of one: torchrun nodes that meet over c10d, with caches, and sometimes disks, of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llmkit.training.spread.launch import free_port
from reliability import runs
from reliability.commands import PATIENCE, ROOT, VARIABLES
from reliability.test_resume import the_same

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]


class Nodes:
    """Two torchrun nodes of one process each; what each says is in its `said`."""

    def __init__(
        self, folder: Path, path: Path, *words: str, restarts: int = 0, apart: bool = False, **variables: str,
    ) -> None:
        """`apart`: each stands in a folder of its own."""
        self.path, self.said = path, [folder / f"node{node}.log" for node in range(2)]
        port = free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []
        for node in range(2):
            cache, here = folder / f"cache{node}", folder / f"home{node}" if apart else folder
            here.mkdir(exist_ok=True)
            with self.said[node].open("wb") as sink:
                self.nodes.append(subprocess.Popen(
                    [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
                     "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id={folder.name}",
                     f"--max-restarts={restarts}", "-m", "llmkit", "pretrain", str(path), *words],
                    cwd=here, stdout=sink, stderr=sink, start_new_session=True,
                    env={**os.environ, **VARIABLES, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo",
                         "LLMKIT_CACHE": str(cache), **variables}))

    def until(self, there: Callable[[], Any]) -> None:
        """Wait for a condition while the nodes run."""
        deadline = time.monotonic() + PATIENCE
        while not there():
            assert time.monotonic() < deadline, self.told()
            assert all(node.poll() is None for node in self.nodes), self.told()
            time.sleep(0.02)

    def wait(self) -> list[int]:
        """How both ended."""
        return [node.wait(PATIENCE) for node in self.nodes]

    def process(self, rank: int) -> int:
        """The process of llmkit that has a rank."""
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (path / "cmdline").read_bytes().split(b"\0")
                if (b"llmkit" in words and str(self.path).encode() in words and b"torch.distributed.run" not in words
                        and f"RANK={rank}".encode() in (path / "environ").read_bytes().split(b"\0")):
                    return int(path.name)
        raise AssertionError(f"no process has rank {rank}: {self.told()}")

    def told(self) -> str:
        """What both said."""
        return "\n".join(path.read_text(errors="replace") for path in self.said)

    def stop(self) -> None:
        """End what still runs."""
        for node in self.nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Nodes]]:
    """Starts two nodes, and ends them."""
    started: list[Nodes] = []

    def make(path: Path, *words: str, **more: Any) -> Nodes:
        started.append(Nodes(tmp_path, path, *words, **more))
        return started[-1]

    yield make
    for nodes in started:
        nodes.stop()


def said(run: Path) -> dict[str, Any]:
    """status.json."""
    found: dict[str, Any] = json.loads((run / "status.json").read_text())
    return found


def test_where_a_process_is_killed_all_go_on_from_the_last_checkpoint(
    start: Callable[..., Nodes], tree: Callable[..., Tree], whole: Callable[..., Path]) -> None:
    """M01: the launcher restarts them, with a store that remembers what the dead ones said."""
    recipe = tree(max_steps=100, save_steps=15, eval_steps=None, micro_batch_size=4, ddp_timeout=60)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    nodes = start(path, restarts=2)
    nodes.until(lambda: runs.steps(run) >= 20)
    os.kill(nodes.process(1), signal.SIGKILL)
    assert nodes.wait() == [0, 0], nodes.told()
    assert "going on from" in nodes.told()
    assert said(run)["status"] == 0
    the_same(run, whole(recipe, 2))


def test_a_signal_to_one_machine_saves_on_all_and_its_status_is_in_the_folder(
    start: Callable[..., Nodes], tree: Callable[..., Tree]) -> None:
    """M02: torchrun ends with 1; what the run ended with is 75."""
    recipe = tree(max_steps=3000, save_steps=10_000, eval_steps=None, micro_batch_size=4, ddp_timeout=60)
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    nodes = start(path)
    nodes.until(lambda: runs.steps(run) >= 5)
    nodes.nodes[1].send_signal(signal.SIGTERM)
    assert 0 not in nodes.wait()
    step = int(runs.checkpoints(run)[-1].name.removeprefix("step-"))
    assert (said(run)["status"], said(run)["message"]) == (
        75, f"stopped by SIGTERM after step {step}, which is saved; the same command goes on from there")


def test_processes_of_another_world_than_was_asked_for_end_with_one_message(
    start: Callable[..., Nodes], tree: Callable[..., Tree]) -> None:
    """M03: a launcher was asked for two machines of two, and each of two starts one."""
    recipe = tree(max_steps=3, ddp_timeout=60)
    nodes = start(runs.write(recipe), LLMKIT_WORLD_SIZE="4")
    assert 0 not in nodes.wait()
    assert "llmkit: error: this process is one of 2, and 4 were asked for" in nodes.told()
    assert said(Path(recipe["output_dir"]))["status"] == 2


def test_a_folder_that_each_machine_has_for_itself_ends_all_with_one_message(
    start: Callable[..., Nodes], tree: Callable[..., Tree], tmp_path: Path) -> None:
    """M04: the nodes stand in folders of their own, and the recipe's folder is named from there."""
    recipe = {**tree(max_steps=3, ddp_timeout=60), "output_dir": "run"}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    nodes = start(path, apart=True)
    assert 0 not in nodes.wait()
    said_of = nodes.told()
    assert "of process 1 on" in said_of and "isn't the folder" in said_of
    (left,) = tmp_path.glob("home*/run/status.json")
    assert said(left.parent)["status"] == 6
