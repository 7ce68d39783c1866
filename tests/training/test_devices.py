"""Several devices, unequal ones, too small ones, ones that aren't used, and ones that repeat themselves."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Child, tiny

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.planning.settle import settle
from llmkit.system import machine
from llmkit.system.errors import RequestError
from llmkit.training import finish
from llmkit.training.fit import fit
from llmkit.training.spread import agreeing, launch, processes
from llmkit.training.spread.agreeing import connect, idle_gpus, in_common
from llmkit.training.spread.meeting import Meeting
from llmkit.training.spread.repeatable import VARIABLES, repeatable


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let torch say that there are so many GPUs."""

    def say(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return say


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "train"]


# ---- several ----


def in_two(tree: dict[str, Any], memory: list[int], said: Path) -> None:
    """A run in two processes that are told how much memory each has."""
    path = said.with_suffix(".yaml")
    path.write_text(json.dumps(tree))
    port = str(launch.free_port())

    def act(rank: int) -> Callable[[], int]:
        def run() -> int:
            machine.memory_each = lambda: memory[rank]
            return main(["pretrain", str(path)])

        return run

    where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
             "GLOO_SOCKET_IFNAME": "lo"}
    both = [Child([], said.with_suffix(f".{rank}.log"), act(rank), RANK=str(rank), LOCAL_RANK=str(rank), **where)
            for rank in range(2)]
    assert [child.wait() for child in both] == [0, 0], [child.said.read_text() for child in both]


def test_unequal_devices_take_the_rows_of_the_smaller_and_miss_none(text: Path, tmp_path: Path) -> None:
    tree = tiny("gpt2", text, tmp_path / "two", still=True)
    size = settle(recipes.load(tree)).size
    little = size.state + 2 * (2 * size.row(32)) + 1
    in_two(tree, [10**9, little], tmp_path / "two")
    assert recipes.load(tmp_path / "two" / "recipe.yaml").training.micro_batch_size == 2
    assert "micro_batch_size 2: the most that the devices of all processes can do" in (
        tmp_path / "two.0.log").read_text()
    fit(recipes.load(tiny("gpt2", text, tmp_path / "one", still=True)))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.parametrize(("every", "common"), [
    ([(8, "bf16", True, 4), (8, "bf16", True, 4)], (8, "bf16", True, 4)),
    ([(16, "bf16", True, 4), (4, "fp16", True, 1)], (4, "fp16", True, 1)),
    ([(2, "fp16", True, 0), (4, "fp32", False, 2)], (2, "fp32", False, 0))])
def test_what_all_devices_can_do_is_done(every: list[Any], common: Any) -> None:
    assert in_common(every) == common


def test_processes_wait_for_each_other_as_long_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(agreeing, "PartialState", lambda **options: given.append(options))
    monkeypatch.setattr(Meeting, "everyone", lambda meeting, about: given.append(about))
    connect(Meeting())
    assert given == []
    meeting = Meeting(torch.distributed.HashStore(), 1, 2, 7200)
    connect(meeting)
    assert given[0] == "ready"  # before the time begins to run
    assert given[1]["timeout"].total_seconds() == 7200
    assert (given[1]["rank"], given[1]["world_size"]) == (1, 2)
    assert meeting.first.connected


def test_more_processes_than_gpus_are_refused(gpus: Callable[[int], None]) -> None:
    gpus(2)
    launch.check_gpus(2)
    with pytest.raises(RequestError, match="--processes 3: this machine has 2 GPUs, and each process needs its own"):
        launch.check_gpus(3)
    gpus(0)
    launch.check(3)


def test_gradients_lie_in_the_buckets_that_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    usual = processes.Accelerator
    monkeypatch.setattr(processes, "Accelerator", lambda **options: asked.append(options) or usual(**options))
    processes.accelerate("fp32", tmp_path)
    (handler,) = asked[0]["kwargs_handlers"]
    assert handler.to_kwargs() == {"gradient_as_bucket_view": True}


@pytest.mark.parametrize(("there", "used", "words"), [
    (4, 1, "GPUs 1 to 3 are idle: --processes 4 uses all 4"), (2, 1, "GPU 1 is idle: --processes 2 uses all 2"),
    (2, 2, ""), (0, 1, "")])
def test_idle_gpus_are_named(
    there: int, used: int, words: str, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(there)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(used))
    assert idle_gpus() == words


def test_a_process_of_a_launch_takes_its_own_gpu_first(
    gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    gpus(4)
    for rank in ("2", "7", ""):
        monkeypatch.setenv("LOCAL_RANK", rank)
        agreeing.take_device()
    assert taken == [2]


# ---- other devices, and small ones ----


def test_a_model_that_cannot_fit_a_gpu_is_refused_with_what_would(
    encoder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny("bert", text, tmp_path)
    del made["tokenizer"]
    request = recipes.load({**made, "backbone": {"pretrained": str(encoder)}})
    size = settle(request).size
    monkeypatch.setattr(machine, "gpu_memory", lambda: size.state // 2)
    with pytest.raises(RequestError) as told:
        settle(request)
    assert str(told.value).startswith(
        f"backbone: weights, gradients and optimizer of this model alone take {machine.size(size.state)}, and this GPU "
        f"has {machine.size(size.state // 2)}. ")
    assert f"tuning: {{method: lora}} takes about {machine.size(4 * size.parameters)}" in str(told.value)
    assert "adamw_8bit" not in str(told.value)  # 2.5 of 4 parts are more than half
    monkeypatch.setattr(machine, "gpu_memory", lambda: 1_000)
    with pytest.raises(RequestError, match=r"Choose a smaller model\. LLMKIT_ANY_SIZE=1"):
        settle(recipes.load(tiny("llama", text, tmp_path)))  # from scratch no adapter helps
    monkeypatch.setenv("LLMKIT_ANY_SIZE", "1")
    settle(request)


def test_memory_of_host_and_gpu_are_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(finish.peaks()) == ["peak_memory_bytes"]
    monkeypatch.setattr(machine, "peak_memory", lambda: 5)
    monkeypatch.setattr(machine, "peak_gpu_memory", lambda: 7)
    assert finish.peaks() == {"peak_memory_bytes": 5, "peak_gpu_memory_bytes": 7}


# ---- the same numbers each time ----


def test_while_a_run_repeats_itself_torch_is_told_so_and_no_longer() -> None:
    before = {name: os.environ.get(name) for name in VARIABLES}
    with repeatable(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert {name: os.environ.get(name) for name in VARIABLES} == before
    with repeatable(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_kernel_that_cannot_repeat_itself_is_named() -> None:
    words = "cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use…'"
    with pytest.raises(RequestError, match=r"full_determinism: cumsum_cuda_kernel of this step has no determin"), \
            repeatable(True):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="another"), repeatable(True):
        raise RuntimeError("another")


def test_on_a_cpu_full_determinism_changes_nothing(text: Path, tmp_path: Path) -> None:
    for name in (False, True):
        fit(recipes.load(tiny("bert", text, tmp_path / str(name), full_determinism=name)))
    assert losses(tmp_path / "True") == losses(tmp_path / "False")
