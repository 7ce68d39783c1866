"""The environment: switches of the network, of torch, of how files' names are read; and what a launcher has set."""

import logging
import os
import sys
from collections.abc import Mapping

from llmkit.system.errors import RequestError

SWITCHES: Mapping[str, str] = {
    # large tensors in huge pages, a fifth off a step (Linux only)
    "THP_MEM_ALLOC_ENABLE": "1",
    # torch and oneDNN each keep 1,024 products ready by their shape, half a gigabyte where every batch has another
    # length; 128 are more than the shapes of a model, and as fast
    "LRU_CACHE_CAPACITY": "128",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}

LAUNCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets for each of its processes: which one it is, of how many, and where they meet."""
NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""What torch and accelerate take for a launch, each of them alone."""
MPI = {"PMI_RANK": "PMI_SIZE", "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
       "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE"}
"""By what MPI says which process one is, and of how many: it sets no RANK."""
USE_CPU = "ACCELERATE_USE_CPU"
"""accelerate's variable by which all that is no CPU is left alone."""


WORLD = "LLMKIT_WORLD_SIZE"
"""How many processes, on all machines together, llmkit's own launcher was asked for."""
STRATEGIES: Mapping[str, str] = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM", "ACCELERATE_USE_PARALLELISM_CONFIG": "its parallelism configuration",
}
"""What accelerate's launcher sets for ways to spread a model that llmkit doesn't go."""


def check_world() -> None:
    """RequestError where a launcher started other processes than were asked for, or for what can't be done here."""
    check_mpi()
    there, asked = os.environ.get("WORLD_SIZE") or "1", os.environ.get(WORLD)
    if asked is not None and asked != there and not any(name in os.environ for name in MPI):
        raise RequestError(f"this process is one of {there}, and {asked} were asked for (--processes, times the "
                           "machines): its launcher started it alone, and each would be a run of its own. "
                           "docs/several_machines.md shows how several are started.")
    for name, what in STRATEGIES.items():
        if switched_on(name):
            raise RequestError(f"{what} (accelerate's launcher sets {name}) isn't supported; use plain data "
                               "parallelism, --multi_gpu, or a model in parts: --use_fsdp --fsdp_version 2.")


def forget_leftovers() -> str | None:
    """Take out what is left over of a launch, and say what that was; RequestError where a launch's numbers can't be.

    A shell or a scheduler may have some of a launch's variables, and no launcher; libraries would wait for the others.
    """
    _check_switch()
    mpi = any(name in os.environ for name in MPI)
    sizes = [] if mpi else [size for size in MPI.values() if size in os.environ]  # of how many, and not which one
    there = {name: os.environ[name] for name in (*NUMBERS, *sizes) if name in os.environ}
    if not there or mpi:
        return None
    missing = [name for name in LAUNCH if not os.environ.get(name)]
    if not missing:
        _check_numbers(there)
        return None
    for name in there:
        del os.environ[name]
    return (f"{', '.join(f'{name}={value}' for name, value in there.items())}: left over of a launch, for "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; ignored, and one process runs")


def check_mpi() -> None:
    """RequestError where MPI started several processes, and nothing says where they meet.

    For where processes would come together: a command of its own on each, as of `tokenize --shard i/n`, may go on.
    """
    for rank, size in MPI.items():
        count = os.environ.get(size, "1")
        if rank in os.environ and count != "1" and not os.environ.get("MASTER_ADDR"):
            raise RequestError(f"{size}={count}, {rank}={os.environ[rank]}: MPI started several processes, and "
                               "MASTER_ADDR and MASTER_PORT don't say where they meet. Set both to the first "
                               f"machine's, or unset {rank} and {size} for one process.")


def _check_switch() -> None:
    """RequestError where a word isn't yes or no to accelerate and to `switched_on` alike."""
    said = os.environ.get(USE_CPU, "0").strip().lower()
    if said not in ("1", "yes", "true", "on", "0", "no", "false", "off"):
        raise RequestError(f"{USE_CPU}={said}: is neither yes nor no; set it to 1 to train on the CPU, or unset it.")


def _check_numbers(there: Mapping[str, str]) -> None:
    """RequestError for the first number of a launch that isn't one, or is out of its bounds."""
    sizes = {name: _whole(name, there[name], 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE") if name in there}
    for name, of in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if name in there:
            _whole(name, there[name], 0, sizes.get(of))
    _whole("MASTER_PORT", os.environ["MASTER_PORT"], 1, 2**16)


def _whole(name: str, value: str, least: int, beyond: int | None = None) -> int:
    if not value.isdecimal() or int(value) < least or (beyond is not None and int(value) >= beyond):
        to = "" if beyond is None else f" to {beyond - 1}"
        raise RequestError(f"{name}={value}: a launcher sets a whole number from {least}{to}; start it anew, or unset "
                           f"{', '.join(NUMBERS)} to train in one process.")
    return int(value)


def is_first() -> bool:
    """Whether this process is the one of a launch that speaks, or the only one."""
    return os.environ.get("RANK", "0") in ("0", "") or not os.environ["RANK"].isdecimal()


def is_first_here() -> bool:
    """Whether this process is the first of a launch on its machine, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") in ("0", "")


def prepare_torch() -> None:
    """Set the switches that aren't set yet; a program that has made tensors already goes on as it is.

    For where a command or a run begins: what the user has set stays, and processes that are started inherit it.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it names kernels that it hasn't as it is imported


def switched_on(variable: str, variables: Mapping[str, str] = os.environ) -> bool:
    """Whether an environment variable says yes, as huggingface_hub reads its own: 1, on, yes or true."""
    return variables.get(variable, "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def name_files_in_utf8() -> None:
    """Begin anew, as the same process, where Python knows file names of ASCII only (PYTHONUTF8=0 in the C locale).

    Elsewhere nothing is done: a locale of GBK or Latin-1 has names of its own. What goes to the terminal stays ASCII.
    """
    if os.name != "posix" or not sys.executable or sys.flags.utf8_mode or sys.getfilesystemencoding() != "ascii":
        return
    sys.stdout.flush()
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", "ascii:surrogateescape")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
