"""The environment's switches: of the network, of torch and oneDNN when they begin, of how files' names are read."""

import os
import sys
from collections.abc import Mapping

SWITCHES: Mapping[str, str] = {
    # large tensors in huge pages, a fifth off a step (Linux only)
    "THP_MEM_ALLOC_ENABLE": "1",
    # torch and oneDNN each keep 1,024 products ready by their shape, half a gigabyte where every batch has another
    # length; 128 are more than the shapes of a model, and as fast
    "LRU_CACHE_CAPACITY": "128",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}


def prepare_torch() -> None:
    """Set the switches that aren't set yet; a program that has made tensors already goes on as it is.

    For where a command or a run begins: what the user has set stays, and processes that are started inherit it.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)


def switched_on(variable: str) -> bool:
    """Whether an environment variable says yes, as huggingface_hub reads its own: 1, on, yes or true."""
    return os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}


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
