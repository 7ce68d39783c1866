"""What this machine has: memory, room on its disks, packages; what this process takes; and whether llmkit knows it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from ctypes import CDLL
from functools import cache
from pathlib import Path

from llmkit.system import devices
from llmkit.system.environment import USE_CPU, switched_on

LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files below /sys/fs/cgroup that say what a container may use, and what it uses: version 2's, version 1's."""
KEPT_BY_GLIBC = "MALLOC_MMAP_THRESHOLD_"
"""By it a person says from which size on freed blocks go back to the system."""
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 2**18
"""The number of that option in malloc.h, and bytes of a block that is large."""
SUPPORTED = ("Linux", "Darwin")
"""Systems that llmkit trains on, as `platform.system` calls them; WSL2 is a Linux."""
DISTRIBUTIONS = ("llmkit-train", "llmkit")
"""What pip calls llmkit, and what it called it in 0.1: PyPI has an llm-kit, which it takes for the same name."""


def untested() -> str | None:
    """A sentence on the system that this is, where llmkit wasn't tested on it."""
    here = platform.system()
    return None if here in SUPPORTED else (
        f"{here or 'this system'} itself is untested; supported are Linux, macOS and WSL2.")


@cache
def installed(package: str) -> str | None:
    """The version of a package, "5.23.0"; None where it isn't installed, as llmkit isn't that runs from its sources.

    Looked up once: to read it takes milliseconds, and every checkpoint and summary names several.
    """
    from importlib.metadata import PackageNotFoundError, version

    for name in DISTRIBUTIONS if package == "llmkit" else (package,):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def memory() -> int:
    """Bytes that the processes of this machine may use together: of its GPU where it has one, else main memory."""
    gpu = gpu_memory()
    return main_memory() if gpu is None else gpu


def gpu_memory() -> int | None:
    """Bytes of this process's GPU; None where there is none."""
    if devices.on_cpu():
        return None
    if devices.kind() == "mps":  # of main memory, what Metal recommends at most
        return int(devices.driver().recommended_max_memory())
    return int(devices.driver().get_device_properties(devices.driver().current_device()).total_memory)


def unused_device() -> str:
    """What there is to say of the device that trains, or that could and doesn't, in words; "" where there is nothing.

    Macs' GPUs, Ascend's and Intel's are trained on where torch and accelerate do it; nobody has run llmkit on one.
    """
    import torch

    name = devices.kind()
    if name in ("mps", "npu", "xpu"):
        slow = "; it has no numbers of 64 bits, so each micro-batch's loss is added up on the CPU" * (name == "mps")
        return (f"this {devices.NAMES[name]} trains ({name}), and llmkit was never tested on one{slow}; "
                f"{USE_CPU}=1 trains on the CPU")
    if name == "cpu" and torch.backends.mps.is_available() and not switched_on(USE_CPU):
        return "this Mac's GPU (MPS) isn't used: it can't add up several processes' gradients; the CPU trains"
    return ""


def gpu_numbers() -> str:
    """The 16 bits that this GPU multiplies faster than fp32: bf16, fp16 from Volta on (7.0); fp32 where it has neither.

    torch counts GPUs that only emulate bf16 (T4, V100, P100, RTX 20) among those that have it, where it isn't asked.
    """
    name, driver = devices.kind(), devices.driver()
    if name == "mps":  # it can, and what that brings was never measured
        return "fp32"
    if name == "npu":
        return "bf16" if driver.is_bf16_supported() else "fp16"
    if driver.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if name == "xpu" or driver.get_device_capability() >= (7, 0) else "fp32"


def main_memory() -> int:
    """Bytes of main memory; in a container, what that may use."""
    return min([_installed(), *(limit for limit, _ in _limits())])


def _installed() -> int:
    """Bytes of main memory that are built in."""
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().total)


def memory_each() -> int:
    """Bytes that each process of a run may use: a GPU of its own, or its share of the main memory."""
    return memory() // sharing()


def sharing() -> int:
    """Processes of this run that share a memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if devices.on_cpu() else 1


def free_memory() -> int:
    """Bytes of the memory that nothing uses now."""
    if devices.on_cpu():
        return free_main_memory()
    if devices.kind() == "mps":
        return int(devices.driver().recommended_max_memory() - devices.driver().driver_allocated_memory())
    return int(devices.driver().mem_get_info()[0])


def free_main_memory() -> int:
    """Bytes of the main memory that nothing uses now; in a container, of what that may use."""
    return min([_available(), *(max(0, limit - used) for limit, used in _limits())])


def _available() -> int:
    """Bytes that could be had without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def _limits(root: Path = Path("/sys/fs/cgroup")) -> list[tuple[int, int]]:
    """(limit, used) in bytes, where this process is in a group that has a limit."""
    found = []
    for limit, used in LIMITS:
        try:
            most, now = (root / limit).read_text().strip(), (root / used).read_text().strip()
        except OSError:
            continue
        if most.isdigit() and now.isdigit():  # `max` is no limit
            found.append((int(most), int(now)))
    return found


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use, at least one; in a container, what that may use, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, of = quota.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if most == "max" else max(1, min(allowed, -(-int(most) // int(of))))


def peak_memory() -> int:
    """The most main memory that this process has held so far, in bytes."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        import psutil

        held = psutil.Process().memory_info()._asdict()
        return int(held.get("peak_wset", held["rss"]))
    most = getrusage(RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak_gpu_memory() -> int | None:
    """The most memory that this process has held on its GPU so far, in bytes; None where there is none.

    A Mac's isn't counted: Metal says what is held now, and never what was.
    """
    return None if devices.kind() in ("cpu", "mps") else int(devices.driver().max_memory_allocated())


def held_memory() -> int:
    """Bytes of main memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def give_back_what_is_freed() -> bool:
    """From now on memory that is freed in large blocks goes back to the system at once; False where nobody can say so.

    glibc keeps freed blocks of up to 32 MB for later ones (mallopt(3), M_MMAP_THRESHOLD), and other ones then lie
    between them: of a model that is parted, and of layers that are gathered and parted again, a process would keep what
    it doesn't hold any more. It costs the system's time to hand out such blocks anew. What the environment says of it
    (MALLOC_MMAP_THRESHOLD_) is left as it is.
    """
    if KEPT_BY_GLIBC in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    return bool(CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK))


def free_disk(folder: Path) -> int:
    """Bytes that can be written into a folder, be it there already or not."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())


def in_the_way(folder: Path) -> tuple[Path, str] | None:
    """What keeps a folder from being made, and why: (runs, "is a file"); None where nothing does.

    (runs, "is a link to /big/runs, which isn't there (is its disk mounted?)")
    """
    for path in (folder, *folder.parents):
        if path.is_dir():
            return None
        if path.is_symlink():
            there = "is a file" if path.exists() else "isn't there (is its disk mounted?)"
            return path, f"is a link to {os.readlink(path)}, which {there}"
        if path.exists():
            return path, "is a file"
    return None


def size(count: float) -> str:
    """Bytes in words.

    >>> size(44_700_000), size(1.5e9), size(120)
    ('44.7 MB', '1.5 GB', '0.12 kB')
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{count / one:,.3g} {unit}" if count < 100 * one else f"{count / one:,.0f} {unit}"
    return f"{count / 1e3:,.3g} kB"
