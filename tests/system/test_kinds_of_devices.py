"""Which device computes, of all that torch and accelerate know, and what it is asked; each driver is a stand-in."""

import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.state
import pytest
import torch
from accelerate.state import PartialState

from llmkit.cli import main, without_device
from llmkit.planning import choices, doctor
from llmkit.recipe import registry
from llmkit.system import devices, machine
from llmkit.system.errors import RequestError
from llmkit.training.spread import launch


class Driver:
    """What torch has for a kind of device: torch.cuda, torch.xpu, torch_npu's torch.npu."""

    def __init__(self, count: int = 1, bf16: bool = True) -> None:
        self.count, self.bf16, self.asked = count, bf16, list[str]()

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, number: int) -> Any:
        return types.SimpleNamespace(name="Stand-in 1", total_memory=64 * 10**9)

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.bf16

    def mem_get_info(self) -> tuple[int, int]:
        return 10 * 10**9, 64 * 10**9

    def max_memory_allocated(self) -> int:
        return 3 * 10**9

    def device(self, number: int) -> Any:
        return torch.device("cpu")

    def get_device_capability(self, number: int = 0) -> tuple[int, int]:
        return 7, 5

    def synchronize(self) -> None:
        self.asked.append("synchronize")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Driver]:
    """Let torch say that there is a kind of device."""

    def say(kind: str, **about: Any) -> Driver:
        driver = Driver(**about)
        if kind == "mps":
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
            monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 10**9)
            monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * 10**9)
        else:
            monkeypatch.setattr(torch, kind, driver, raising=False)
        if kind == "npu":
            monkeypatch.setattr(devices, "find_spec", lambda package: object())
            monkeypatch.setattr(devices, "_npu_is_there", lambda: True)
        return driver

    return say


def test_without_any_the_cpu_computes() -> None:
    assert (devices.kind(), devices.on_cpu(), devices.count()) == ("cpu", True, 0)
    assert machine.unused_device() == ""
    assert machine.gpu_memory() is None and machine.peak_gpu_memory() is None


@pytest.mark.parametrize("kind", ["xpu", "npu"])
def test_what_torch_and_accelerate_train_on_is_used_and_said(kind: str, there: Callable[..., Driver]) -> None:
    driver = there(kind, count=2)
    assert (devices.kind(), devices.count()) == (kind, 2)
    assert machine.gpu_memory() == machine.memory() == 64 * 10**9
    assert (machine.free_memory(), machine.peak_gpu_memory()) == (10 * 10**9, 3 * 10**9)
    devices.wait()
    assert driver.asked == ["synchronize"]
    assert f"trains ({kind}), and llmkit was never tested on one; ACCELERATE_USE_CPU=1 trains on the CPU" in (
        machine.unused_device())
    launch.check_gpus(2)
    with pytest.raises(RequestError, match=r"has 2 GPUs, and each process needs its own.*ACCELERATE_USE_CPU=1"):
        launch.check_gpus(3)
    first, *_ = doctor.processors()
    assert (first.about, first.state) == (f"{kind} 0", "note")
    assert first.said == "Stand-in 1, 64 GB, bf16; llmkit was never tested on one"


@pytest.mark.parametrize(("kind", "bf16", "usual", "compiles"), [
    ("xpu", True, "bf16", True), ("xpu", False, "fp16", True), ("npu", True, "bf16", False),
    ("npu", False, "fp16", False), ("mps", True, "fp32", False)])
def test_what_another_device_decides(
    kind: str, bf16: bool, usual: str, compiles: bool, there: Callable[..., Driver],
    monkeypatch: pytest.MonkeyPatch) -> None:
    there(kind, bf16=bf16)
    monkeypatch.setattr(choices, "find_spec", lambda package: object())
    monkeypatch.setattr(choices.shutil, "which", lambda program: f"/usr/bin/{program}")
    assert choices.precision(1024)[0] == usual
    assert (choices.lacks_compiler() is None) is compiles
    assert choices.AT_ONCE[devices.kind()] == (4_096 if kind == "mps" else 16_384)
    if usual == "fp16":
        assert choices.precision(1024, registry.find("backbones", "t5"))[0] == "fp32"
    choices.check_precision("fp16", registry.find("backbones", "bert"))  # refused on a CPU alone


def test_a_mac_trains_on_its_gpu_and_several_processes_on_its_cpu(
    there: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    there("mps")
    assert devices.kind() == "mps"
    assert machine.gpu_memory() == 12 * 10**9
    assert machine.free_memory() == 10 * 10**9
    assert machine.peak_gpu_memory() is None  # Metal doesn't say what was held
    assert "each micro-batch's loss is added up on the CPU" in machine.unused_device()
    assert [finding.state for finding in doctor.processors()] == ["note"]
    launch.check_gpus(4)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert devices.kind() == "cpu"
    assert machine.unused_device() == (
        "this Mac's GPU (MPS) isn't used: it can't add up several processes' gradients; the CPU trains")


@pytest.mark.parametrize("kind", ["cuda", "xpu", "npu", "mps"])
def test_accelerates_own_variable_leaves_all_of_them_alone(
    kind: str, there: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    there(kind)
    assert devices.kind() == kind
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert devices.kind() == "cpu"
    assert machine.unused_device() == ""


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])  # of npu, torch knows the name where torch_npu is installed
def test_accelerate_takes_the_same_device(
    kind: str, there: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    there(kind)
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "0")  # which accelerate sets
    for name in ("mps", "npu", "xpu"):
        monkeypatch.setattr(accelerate.state, f"is_{name}_available", lambda *_, name=name, **__: name == kind)
    state = PartialState.__new__(PartialState)
    assert PartialState.default_device.fget(state).type == devices.kind() == kind  # type: ignore[attr-defined]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """What is said of devices in the environment, which is what it was afterwards."""
    names = ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return lambda: {name: os.environ[name] for name in names if name in os.environ}


@pytest.mark.parametrize(("name", "before", "after"), [
    ("cpu", {}, {"ACCELERATE_USE_CPU": "true"}), ("cuda", {"ACCELERATE_USE_CPU": "1"}, {}),
    ("cuda:1", {}, {"CUDA_VISIBLE_DEVICES": "1"}),
    ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,6"}, {"CUDA_VISIBLE_DEVICES": "6"}),
    ("cuda:0", {"HIP_VISIBLE_DEVICES": "GPU-ab,GPU-cd"},
     {"CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "GPU-ab"})])
def test_a_device_is_chosen_by_name(
    name: str, before: dict[str, str], after: dict[str, str], there: Callable[..., Driver],
    variables: Callable[[], dict[str, str]]) -> None:
    there("cuda", count=1)
    os.environ.update(before)
    devices.choose(name)
    assert variables() == after
    assert devices.kind() == name.partition(":")[0]


@pytest.mark.parametrize(("name", "why"), [
    ("cuda", "--device cuda: torch sees no such device here"), ("mps", "torch sees no such device"),
    ("gpu", "is none of cpu, cuda, cuda:N, mps, npu, xpu"), ("cpu:1", "is none of"), ("cuda:x", "is none of"),
    ("", "is none of")])
def test_a_device_that_is_not_there_is_refused(
    name: str, why: str, variables: Callable[[], dict[str, str]]) -> None:
    with pytest.raises(RequestError, match=why) as told:
        devices.choose(name)
    assert told.value.status == 2


def test_the_doctor_says_what_a_card_multiplies(there: Callable[..., Driver]) -> None:
    there("cuda", bf16=False)  # as a T4
    first, *_ = doctor.processors()
    assert (first.about, first.state, first.said) == (
        "gpu 0", "ok", "Stand-in 1, 64 GB, no bf16: training.precision auto is fp16")


@pytest.mark.parametrize(("variable", "value"), [
    ("ACCELERATE_USE_CPU", "1"), ("CUDA_VISIBLE_DEVICES", ""), ("HIP_VISIBLE_DEVICES", "-1")])
def test_the_doctor_names_what_hides_a_gpu(
    variable: str, value: str, variables: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path)
    plain, *_ = doctor.processors()
    assert "can't use it" in plain.said
    os.environ[variable] = value
    found, *_ = doctor.processors()
    assert found.said == f"there is one, and {variable}={value} keeps it from being used"


@pytest.mark.parametrize(("words", "left", "name"), [
    (["--device", "cpu", "predict", "m"], ["predict", "m"], "cpu"),
    (["predict", "--device=cpu", "m"], ["predict", "m"], "cpu"),
    (["predict", "m"], ["predict", "m"], None), (["predict", "--device"], ["predict"], "")])
def test_the_option_may_stand_anywhere(words: list[str], left: list[str], name: str | None) -> None:
    assert without_device(words) == (left, name)


def test_a_command_computes_where_it_is_told(
    variables: Callable[[], dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--device", "cpu"]) == 0
    assert variables() == {"ACCELERATE_USE_CPU": "true"}
    assert main(["methods", "--device", "gpu"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("llmkit: error: --device gpu: is none of cpu")


def test_numbers_of_64_bits_are_the_hosts_where_a_device_has_none() -> None:
    assert devices.precise(torch.ones(2)).dtype is torch.float64
    assert devices.finest(torch.device("cpu")) is torch.float64
    assert devices.finest(torch.device("mps")) is torch.float32


def test_chance_goes_on_as_if_the_block_had_drawn_none() -> None:
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    with devices.same_chance(torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.rand(2), first)
