"""What accelerate's launcher is asked for: by options after `--`, and by the configuration that a person saved."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from llmkit.system.addresses import at_home
from llmkit.system.errors import RequestError

TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")
"""Kinds of distribution (`distributed_type`) that a configuration may name."""
WAYS = ("multi_gpu", "tpu", "use_deepspeed", "use_fsdp", "use_megatron_lm")
"""Options that say how accelerate's launcher starts processes."""
UNUSED = {"mpirun_config": "mpirun isn't used: processes find each other by main_process_ip",
          "downcast_bf16": "it is for TPUs", "fp8_config": "training.precision decides"}
"""Fields of a configuration that change nothing here; what the processes find in the environment, they say."""


@dataclass(frozen=True)
class Start:
    """How many processes on how many machines, and the launcher's own words for it."""

    each: int
    """Processes on this machine."""
    machines: int
    options: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What of a saved configuration isn't used, in words."""
    cpu: bool = False
    """Whether GPUs are left alone."""

    @property
    def world(self) -> int:
        """Processes on all machines."""
        return self.each * self.machines


def saved() -> Path | None:
    """The configuration that `accelerate config` left; None where there is none."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    path = at_home(home) / "accelerate" / "default_config.yaml"
    return path if path.is_file() else None


def configuration(path: Path) -> dict[str, Any]:
    """What a configuration says; RequestError where it isn't one."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"--config_file {path}: can't be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict):
        raise RequestError(f"--config_file {path}: isn't a configuration of accelerate, as `accelerate config` "
                           "writes one.")
    return found


def asked(processes: int, options: Sequence[str]) -> Start:
    """What accelerate's launcher is to start for `--processes N -- OPTIONS`.

    processes   on this machine; 1, as nothing was said, leaves it to the options and the configuration
    RequestError where they contradict each other, or ask for what llmkit doesn't do.
    """
    given = _parsed(options)
    path = at_home(given.config_file) if given.config_file is not None else saved()
    said = {} if path is None else configuration(path)
    where = f"{path}: " if path is not None else ""
    _check_ways(given, said, where)
    machines = _first(given.num_machines, said.get("num_machines"), 1)
    total = _first(given.num_processes, None if processes > 1 else said.get("num_processes"))
    notes = [f"{name}: {why}" for name, why in UNUSED.items() if said.get(name)]
    if processes > 1:
        if total not in (None, processes * machines):
            raise RequestError(f"--num_processes {total}: --processes {processes} is for each machine, so "
                               f"{machines} have {processes * machines}; leave --num_processes out.")
        total = processes * machines
        if (before := said.get("num_processes")) not in (None, total):
            notes.append(f"num_processes {before}: --processes {processes} on each of {machines} machines goes over it")
    total = machines if total is None or total < 1 else total
    if total % machines:
        raise RequestError(f"{where}num_processes {total} can't be shared evenly by {machines} machines.")
    rank = _first(given.machine_rank, said.get("machine_rank"), 0)
    if machines > 1:
        _check_machines(machines, rank, _first(given.main_process_ip, said.get("main_process_ip")),
                        _first(given.main_process_port, said.get("main_process_port")))
    cpu = bool(given.cpu or said.get("use_cpu"))
    return Start(total // machines, machines, _words(options, given, total, machines),
                 tuple(f"accelerate's configuration {path}, {note}" for note in notes), cpu)


def _words(options: Sequence[str], given: Namespace, total: int, machines: int) -> tuple[str, ...]:
    """The options for the launcher: those that were given, and so many processes by the way that starts several.

    On a CPU too that is `--multi_gpu`: with `--cpu`, or with nothing, accelerate starts one process and says nothing.
    """
    left = [word for word in options if word != "--cpu"]
    if total > 1 and not any(getattr(given, way) for way in WAYS):
        left = ["--multi_gpu", *left]
    return (f"--num_processes={total}", f"--num_machines={machines}", *left)


def _parsed(options: Sequence[str]) -> Namespace:
    """The options as accelerate's own parser reads them; RequestError where it can't."""
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()

    def error(message: str) -> NoReturn:
        raise RequestError(f"after `--`, {message}: these are options of accelerate's launcher; `accelerate launch "
                           "--help` lists them.")

    parser.error = error
    given: Namespace = parser.parse_args([*options, "llmkit"])
    if given.training_script != "llmkit" or given.training_script_args:
        raise RequestError(f"after `--`, {given.training_script!r} isn't an option of accelerate's launcher, which "
                           "starts llmkit here.")
    return given


def _check_ways(given: Namespace, said: Mapping[str, Any], where: str) -> None:
    """RequestError for ways to spread a model that llmkit doesn't go."""
    for way in WAYS:
        if way not in ("multi_gpu", "use_fsdp") and getattr(given, way):
            raise RequestError(f"--{way} isn't supported; use plain data parallelism, --multi_gpu, or parts: "
                               "--use_fsdp --fsdp_version 2.")
    kind, place = str(said.get("distributed_type") or "NO"), said.get("compute_environment", "LOCAL_MACHINE")
    if place != "LOCAL_MACHINE":
        raise RequestError(f"{where}compute_environment {place} isn't supported; LOCAL_MACHINE is.")
    if kind not in TYPES:
        raise RequestError(f"{where}distributed_type {kind} isn't supported; {', '.join(TYPES)} are. Another file "
                           "goes over it: -- --config_file FILE.")


def _check_machines(machines: int, rank: Any, address: Any, port: Any) -> None:
    """RequestError where several machines couldn't find each other."""
    if not isinstance(rank, int) or not 0 <= rank < machines:
        raise RequestError(f"--machine_rank {rank}: {machines} machines are 0 to {machines - 1}.")
    missing = [name for name, value in (("--main_process_ip", address), ("--main_process_port", port)) if value is None]
    if missing:
        raise RequestError(f"--num_machines {machines}: {' and '.join(missing)} must say where the first machine is, "
                           "the same on each.")


def _first(*values: Any) -> Any:
    """The first that isn't None."""
    return next((value for value in values if value is not None), None)


def command(wanted: Start, arguments: Sequence[str]) -> list[str]:
    """The words that start accelerate's launcher."""
    return [sys.executable, "-m", "accelerate.commands.launch", *wanted.options, "-m", "llmkit", *arguments]


def passed_over(processes: int) -> str:
    """That a saved configuration isn't read, in words, where it asks for other processes; "" where all is well."""
    path = saved()
    if path is None:
        return ""
    try:
        said = configuration(path)
    except RequestError:
        return ""
    total, machines = said.get("num_processes", 1), said.get("num_machines", 1)
    if (total, machines) in ((processes, 1), (-1, 1)):
        return ""
    return (f"accelerate's saved configuration {path} ({total} processes, {machines} machines) isn't read without "
            f"`--`: `-- --config_file {path}` starts by it; this run has {processes}")
