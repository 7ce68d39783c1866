"""Start several processes of the same command on this machine, pass signals on to them, and wait for all of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

from llmkit.system import devices, terminal
from llmkit.system.environment import USE_CPU, WORLD
from llmkit.system.errors import RequestError, Stopped
from llmkit.system.signals import GOES_ON, STATUS, end_with_parent, killer, leave_terminal, listened
from llmkit.training.spread.accelerate_options import Start, asked, command

PATIENCE = 60  # seconds that the others have to end in order when one has ended, before they are killed


def is_worker() -> bool:
    """Whether a launcher (ours, accelerate's, torchrun) started this process."""
    return any(name in os.environ for name in ("RANK", "LOCAL_RANK", WORLD))


def launch(arguments: Sequence[str], processes: int, options: Sequence[str] = (), folder: Path | None = None) -> int:
    """Run `llmkit ARGUMENTS` in several processes; return the exit status of the run.

    options   of accelerate's own launcher, which starts the processes where there are any: on several machines
    folder    of the run, which says there how it ended: that launcher ends with 1, whatever went wrong

    Without options they are started here: gloo and NCCL find them by the same variables.
    """
    if options:
        return by_accelerate(asked(processes, options), arguments, folder)
    port = free_port()
    return _told([f"process {rank} of 0 to {processes - 1}" for rank in range(processes)],
                 [start([sys.executable, "-m", "llmkit", *arguments], _variables(rank, processes, port))
                  for rank in range(processes)], folder)


def processes_of(processes: int, options: Sequence[str] = ()) -> int:
    """How many processes `launch` makes, on all machines together."""
    return asked(processes, options).world if options else processes


def by_accelerate(wanted: Start, arguments: Sequence[str], folder: Path | None) -> int:
    """Let accelerate's launcher start this machine's processes; Stopped, with what the run ended with, if it failed."""
    from llmkit.training.folder.ending import status_in

    for note in wanted.notes:
        terminal.err(f"llmkit: {note}")
    variables = {**os.environ, "PYTHONSAFEPATH": "1", WORLD: str(wanted.world)}
    if wanted.cpu:
        variables |= {"CUDA_VISIBLE_DEVICES": "", USE_CPU: "true"}
    began = time.time()
    status = _told(["the launcher"], [start(command(wanted, arguments), variables)], folder)
    said = None if folder is None or not status else status_in(folder, began)
    if said is None or not said["status"]:
        return status
    raise Stopped(str(said.get("message")), said["status"])


def _told(names: Sequence[str], children: Sequence[subprocess.Popen[bytes]], folder: Path | None) -> int:
    """Wait for children; Stopped where somebody killed one, which can't say so itself: the run's folder says it too."""
    killed: list[int] = []
    status = wait(children, killed)
    if not killed:
        return status
    which = killed[0]
    said = (f"{names[which]} (pid {children[which].pid}) was killed by {killer(-children[which].returncode)}; the "
            f"others were ended. {GOES_ON}")
    if folder is not None:
        from llmkit.training.folder.ending import leave_killed

        leave_killed(folder, status, said, which)
    raise Stopped(said, status)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _variables(rank: int, processes: int, port: int) -> dict[str, str]:
    cores = os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // processes)), **os.environ, "PYTHONSAFEPATH": "1", WORLD: str(processes),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}


def start(command: Sequence[str], variables: dict[str, str], said: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; what it says on both outputs goes to `said`, if given.

    It ends when this process does, even when that is killed: else it would hold the run's folder on.
    """
    return subprocess.Popen(
        command, env=variables, start_new_session=True, stdout=said, stderr=said, preexec_fn=end_with_parent)


def wait(children: Sequence[subprocess.Popen[bytes]], killed: list[int] | None = None) -> int:
    """Wait for every child; pass signals on; when one fails, end the others. No child is left behind.

    What somebody else killed first, by a signal, goes to `killed`, by its place among the children.
    """
    got: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        got.append(number)
        leave_terminal()
        for child in children:
            _signal(child, signal.Signals(number))

    before = {number: signal.signal(number, forward) for number in listened()}
    watched = signal.set_wakeup_fd(-1)  # whoever listens would end this process while the children save
    deadline: float | None = None
    first: int | None = None
    try:
        while True:
            running = [child for child in children if child.poll() is None]  # every one is asked
            failed = [child.returncode for child in children if child.returncode]
            if failed and deadline is None:
                first = next((one for one in failed if one < 0), failed[0])
                deadline = time.monotonic() + (PATIENCE if got else 5)
                if killed is not None and not got:
                    killed += [i for i, child in enumerate(children) if (child.returncode or 0) < 0]
                if not got:  # the others wait for the dead one in a collective: nothing can be saved
                    for child in children:
                        _signal(child, signal.SIGTERM)
            if not running:
                break
            if deadline is not None and time.monotonic() > deadline:
                for child in children:
                    _signal(child, signal.SIGKILL)
            time.sleep(0.05)
        left = time.monotonic() + (PATIENCE if got else 5)
        while time.monotonic() < left and any(_alive(child) for child in children):
            time.sleep(0.05)  # a launcher in between may end before those that it started have saved
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(watched)
        for child in children:
            _signal(child, signal.SIGKILL)
    statuses = [child.returncode for child in children]
    if got and any(statuses):
        return STATUS[signal.Signals(got[0])]
    bad = first if first is not None else next((status for status in statuses if status), 0)
    return bad if bad >= 0 else 128 - bad


def _alive(child: subprocess.Popen[bytes]) -> bool:
    """Whether anything of a child's session still runs."""
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a child's whole session."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def check(processes: int) -> None:
    """Raise RequestError where this machine can't run so many."""
    if processes < 1:
        raise RequestError(f"--processes {processes}: at least 1.")
    if processes > 1 and sys.platform == "win32":
        raise RequestError(f"--processes {processes}: several are started on Linux, macOS and WSL2 only.")


def check_here(processes: int) -> None:
    """RequestError in a process of a launch that started other processes on this machine than `--processes` says."""
    here = os.environ.get("LOCAL_WORLD_SIZE")
    if processes > 1 and is_worker() and here is not None and here != str(processes):
        raise RequestError(f"--processes {processes}: the launcher started {here} on this machine; leave --processes "
                           "out, for it says how many there are.")


def check_gpus(processes: int) -> None:
    """Raise RequestError where there are GPUs and not one for each process; torch is asked, which takes its time."""
    if processes > 1 and 0 < (gpus := gpus_here()) < processes:
        raise RequestError(f"--processes {processes}: this machine has {gpus} GPU{'s' if gpus > 1 else ''}, and each "
                           f"process needs its own; --processes {gpus}, or ACCELERATE_USE_CPU=1 to train on CPUs.")


def gpus_here() -> int:
    """How many GPUs processes of this machine can use."""
    return 0 if devices.kind() == "mps" else devices.count()  # several processes of a Mac have its CPU
