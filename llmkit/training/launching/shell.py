"""What all scripts have in common: torchrun's words, a signal that is passed on, and the run's own exit status."""

from __future__ import annotations

from shlex import quote

from llmkit.models import layout
from llmkit.system.errors import RequestError
from llmkit.training.launching.wanted import Wanted

PORT = 29500
"""torch's usual one."""
NETWORKS = "# Where machines have several networks: export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0"


def torchrun(wanted: Wanted, *words: str) -> str:
    """The command: torchrun's own words, a line each, then llmkit's."""
    own = [*words, f"--max-restarts={wanted.restarts}"]
    return " \\\n    ".join(["torchrun", *own, f"-m {wanted.command}"])


def settings(wanted: Wanted) -> list[str]:
    """Lines that set what the processes need, and how the run's folder is called in the script."""
    lines = [f"run={quote(str(wanted.folder))}  # of the run: on a disk that all machines see"]
    if wanted.threads is not None:
        lines.append(f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{wanted.threads}}}"')
    # after a signal torchrun kills what hasn't ended after 30 s; a checkpoint may take longer
    lines.append(f'export PET_SHUTDOWN_TIMEOUT="${{PET_SHUTDOWN_TIMEOUT:-{wanted.grace - 10}}}"')
    return lines


def waiting(command: str, passing: str) -> list[str]:
    """Lines that run a command, pass SIGTERM on to it and wait until it has saved; `code` is what the run ended with.

    command   what is started
    passing   what passes the signal on; `$step` is the process that was started

    torchrun ends with 1 whatever its processes ended with: what they say is in status.json.
    """
    return [
        f"{command} &",
        "step=$!",
        f"trap '{passing}' TERM INT",
        'wait "$step"; ended=$?',
        'while kill -0 "$step" 2>/dev/null; do wait "$step"; ended=$?; done  # it ends at a signal',
        f"code=$(sed -n 's/^ *\"status\": \\([0-9]*\\),*$/\\1/p' \"$run/{layout.STATUS}\" 2>/dev/null)"]


def of_this_start() -> list[str]:
    """Lines that take back `code` where the file is older than this start, by the clock of the disk they are on."""
    return [f'if [ ! "$run/{layout.STATUS}" -nt "$started" ]; then code=; fi  # of an earlier start',
            'rm -f "$started"']


def refuse(wanted: Wanted, scheduler: str, *options: str) -> None:
    """RequestError where an option was given that a scheduler has no use for."""
    for option in options:
        if getattr(wanted, option) is not None:
            raise RequestError(f"--{option}: {scheduler} has no such thing; leave it out.")
