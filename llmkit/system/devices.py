"""The device that computes, numbers on their way to it, and what the host still knows of them meanwhile."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llmkit.system.environment import USE_CPU, switched_on
from llmkit.system.errors import DeviceFullError, RequestError, device_full

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

log = logging.getLogger("llmkit")

NAMES = {"cuda": "GPU", "npu": "Ascend NPU", "xpu": "Intel GPU", "mps": "Mac's GPU (MPS)", "cpu": "CPU"}
"""What the kinds of devices are called in a sentence."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Variables that say which GPUs a process may see: NVIDIA's, which AMD's ROCm reads too, and ROCm's own."""
KNOWN: ContextVar[Mapping[int, tuple[Tensor, Tensor]]] = ContextVar("known")
"""By the id of a tensor on a device: that tensor, and the one of the host that it was copied from."""


def kind() -> str:
    """What computes here, as torch calls it: cuda (NVIDIA's and AMD's GPUs), npu, xpu, mps or cpu.

    The same device that accelerate takes. Several processes of a Mac train on its CPU: its GPU has no way to add up
    their gradients.
    """
    import torch

    if switched_on(USE_CPU):
        return "cpu"
    if torch.backends.mps.is_available():
        return "mps" if os.environ.get("WORLD_SIZE", "1") == "1" else "cpu"
    if find_spec("torch_npu") is not None and _npu_is_there():
        return "npu"
    if torch.cuda.is_available():
        return "cuda"
    return "xpu" if torch.xpu.is_available() else "cpu"


def choose(name: str) -> None:
    """Let what a name says compute, in this process and those that it starts: `cpu`, `cuda`, `cuda:1`, `mps` …

    To be called before torch looks for devices. RequestError where there is no such name, or no such device.
    """
    kinds, _, number = name.partition(":")
    if kinds not in NAMES or (number and (kinds != "cuda" or not number.isdecimal())):
        raise RequestError(f"--device {name}: is none of cpu, cuda, cuda:N, mps, npu, xpu.")
    if kinds == "cpu":
        os.environ[USE_CPU] = "true"
        return
    os.environ.pop(USE_CPU, None)
    if number:
        for variable in VISIBLE:
            seen = [one for one in os.environ.get(variable, "").split(",") if one]
            if variable in os.environ or variable == VISIBLE[0]:
                os.environ[variable] = (seen[int(number)] if int(number) < len(seen) else "") if seen else number
    if kind() != kinds or not count():
        raise RequestError(f"--device {name}: torch sees no such device here; `llmkit doctor` says what there is.")


def hidden() -> str:
    """The variable that keeps GPUs from being used; "" where none does."""
    if switched_on(USE_CPU):
        return USE_CPU
    return next((name for name in VISIBLE if os.environ.get(name, "0").strip() in ("", "-1")), "")


def _npu_is_there() -> bool:
    """Asked by accelerate, which imports torch_npu for it: that puts torch.npu there."""
    from accelerate.utils import is_npu_available

    return bool(is_npu_available())


def on_cpu() -> bool:
    """Whether the CPU computes."""
    return kind() == "cpu"


def driver() -> Any:
    """What torch has for the kind of device that computes: torch.cuda, torch.xpu …; not for a CPU."""
    import torch

    return getattr(torch, kind())


def count() -> int:
    """How many devices of that kind there are; 0 of a CPU."""
    return 0 if on_cpu() else int(driver().device_count())


def wait() -> None:
    """Until the device has done all that it was asked to do."""
    if not on_cpu():
        driver().synchronize()


def release() -> None:
    """Give back what torch keeps of a device's memory for later, so that other sizes find room in it."""
    if not on_cpu():
        driver().empty_cache()


@dataclass
class AtOnce:
    """How much of something a device does at once: all of it, until its memory ends; then half as much, and so on."""

    what: str
    """What is counted, in the plural: "prompts"."""
    most: int | None = None
    """As many fit, where more didn't."""

    def do(self, some: Sequence[Any], work: Callable[[Sequence[Any]], Iterable[Any]]) -> list[Any]:
        """What `work` gives of each of them, in their order; it is said where fewer go together from then on.

        What a device says of its memory stays an error where one alone is too much for it.
        """
        found: list[Any] = []
        while len(found) < len(some):
            part = some[len(found):][: self.most]
            try:
                found.extend(work(part))
                continue
            except (RuntimeError, DeviceFullError) as error:  # its traceback holds tensors: they go with it
                if len(part) < 2 or not device_full(error):
                    raise
            release()
            self.most = len(part) // 2
            log.warning("%d %s together don't fit in this device's memory; going on with %d", len(part), self.what,
                        self.most)
        return found


def finest(device: torch.device) -> torch.dtype:
    """The numbers of most bits that a device adds in: 64, and 32 on a Mac's GPU."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def precise(tensor: Tensor) -> Tensor:
    """A tensor in 64 bits; on the host where its device has none (MPS), which is waited for."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def same_chance(device: torch.device) -> AbstractContextManager[None]:
    """While the block runs, chance is drawn as it likes; then the generators of host and device are what they were."""
    import torch

    if device.type == "mps":
        return _same_chance_of_a_mac()
    devices = [] if device.type == "cpu" else [device.index or 0]
    context: AbstractContextManager[None] = torch.random.fork_rng(
        devices, device_type="cuda" if device.type == "cpu" else device.type)
    return context


@contextmanager
def _same_chance_of_a_mac() -> Iterator[None]:
    import torch

    before = torch.mps.get_rng_state()
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        torch.mps.set_rng_state(before)


def sent(numbers: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers on a device; `torch.tensor(…, device=…)` would wait until all work before it is done.

    CUDA takes numbers from memory that isn't pinned before the call returns, so they may be changed after it; of other
    devices that isn't known.
    """
    import torch

    made = numbers if isinstance(numbers, torch.Tensor) else torch.tensor(numbers, dtype=dtype)
    return made.to(device, non_blocking=torch.device(device).type == "cuda")


@contextmanager
def moved(batches: Sequence[Mapping[str, Tensor]], device: torch.device) -> Iterator[list[dict[str, Tensor]]]:
    """Batches on a device. While the block runs, `on_host` knows their tensors without asking the device."""
    there = [{name: sent(tensor, device) for name, tensor in batch.items()} for batch in batches]
    pairs = {id(new): (new, batch[name]) for batch, copied in zip(batches, there, strict=True)
             for name, new in copied.items()}
    token = KNOWN.set(pairs)
    try:
        yield there
    finally:
        KNOWN.reset(token)


def gathered(tensor: Tensor) -> Tensor:
    """A tensor whole, of which this process may have a part: then all processes ask together."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: all of it, or its part."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def copied(tree: Any) -> Any:
    """Mappings and lists as they are now, each tensor in them as a copy in main memory; of one in parts, its part."""
    import torch

    if isinstance(tree, torch.Tensor):
        tensor = tree.detach()
        return tensor.clone() if tensor.device.type == "cpu" else tensor.to("cpu")
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(copied(value) for value in tree)
    return copy.deepcopy(tree)


def on_host(tensor: Tensor) -> Tensor:
    """The host's copy of a tensor; of one that wasn't `moved` it is made now, and the host waits for it."""
    if tensor.device.type == "cpu":
        return tensor
    known = KNOWN.get({}).get(id(tensor))
    return tensor.cpu() if known is None else known[1]
