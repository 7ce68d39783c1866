"""What a run is to be started with: how many machines and processes, for how long, and by which command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from llmkit.system.errors import RequestError

LONGEST = 50
"""Characters of a job's name: Kubernetes adds `-worker-12` and allows 63."""
SHORTEST = 20
"""Seconds between the signal and the end that a script may ask for: ten of them are the launcher's own."""
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>[0-5]?\d))?(?::(?P<third>[0-5]?\d))?")
"""Slurm's forms: 90 (minutes), 90:00, 24:00:00, 2-12, 2-12:30, 2-12:30:00."""
WORD = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
"""What an account, a partition or a claim is called: nothing that a shell or a comment would read otherwise."""
IMAGE = re.compile(r"[\w][\w./:@-]*", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """What the file is to say; construct it through `wanted`, which checks it."""

    words: tuple[str, ...]
    """The command behind `-m llmkit`: pretrain recipe.yaml --seed 3"""
    name: str
    """The recipe's."""
    folder: Path
    """Of the run."""
    nodes: int = 1
    processes: int = 1
    """On each machine: one a GPU."""
    gpus: int = 1
    """Of each machine."""
    time: str | None = None
    """How long it may run, in one of Slurm's forms."""
    account: str | None = None
    partition: str | None = None
    cpus: int | None = None
    """Cores of each machine."""
    image: str | None = None
    claim: str | None = None
    """The name of the volume that all pods share (a PersistentVolumeClaim)."""
    restarts: int = 3
    """How often torchrun starts the processes anew where one is killed."""
    grace: int = 120
    """Seconds between the signal and the end, in which a checkpoint is saved."""

    @property
    def about(self) -> str:
        """`bert_mini on 2 machines of 4 GPUs`"""
        each = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else (
            f"{self.processes} process{'es' if self.processes > 1 else ''}, without GPUs")
        return f"{self.name} on {self.nodes} machine{'s' if self.nodes > 1 else ''} of {each}"

    @property
    def job(self) -> str:
        """The job's name, in letters that every scheduler takes: `bert_mini` is bert-mini; of 月亮, a hash."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:LONGEST].strip("-")
        if not plain or not plain[0].isalpha():
            return f"run-{plain or sha256(self.name.encode()).hexdigest()[:8]}"
        return plain

    @property
    def command(self) -> str:
        """The command behind `-m`, as a shell reads it."""
        return shlex.join(["llmkit", *self.words])

    @property
    def threads(self) -> int | None:
        """Threads of each process; None where nobody said how many cores there are."""
        return None if self.cpus is None else max(1, self.cpus // self.processes)

    @property
    def seconds(self) -> int | None:
        """How long it may run."""
        return None if self.time is None else seconds(self.time)


def wanted(words: Sequence[str], name: str, folder: Path, rows: int, **given: object) -> Wanted:
    """What a file is to say, checked: RequestError names the option.

    rows    of a step (training.global_batch_size), which all processes must be able to share evenly
    given   the fields of `Wanted` that were said; None: its default
    """
    made = Wanted(tuple(words), name, folder, **{  # type: ignore[arg-type]
        field: value for field, value in given.items() if value is not None})
    for option in ("nodes", "processes"):
        if getattr(made, option) < 1:
            raise RequestError(f"--{option} {getattr(made, option)}: at least 1.")
    if made.grace < SHORTEST:
        raise RequestError(f"--grace {made.grace}: at least {SHORTEST} seconds, in which a checkpoint is saved and the "
                           "launcher ends.")
    for option in ("gpus", "restarts"):
        if getattr(made, option) < 0:
            raise RequestError(f"--{option} {getattr(made, option)}: at least 0.")
    if made.cpus is not None and made.cpus < 1:
        raise RequestError(f"--cpus {made.cpus}: at least 1.")
    if made.gpus and made.processes != made.gpus:
        raise RequestError(f"--processes {made.processes}: a machine of {made.gpus} GPUs has {made.gpus}, one each; "
                           "say --gpus 0 for machines without.")
    every = made.nodes * made.processes
    if rows % every:
        raise RequestError(f"--nodes {made.nodes}: training.global_batch_size {rows} can't be shared by {every} "
                           f"processes; --set training.global_batch_size={-(-rows // every) * every} can.")
    for option, form in (("account", WORD), ("partition", WORD), ("claim", WORD), ("image", IMAGE)):
        value = getattr(made, option)
        if value is not None and not form.fullmatch(value):
            raise RequestError(f"--{option} {value!r}: letters, digits, `.`, `_` and `-` are expected.")
    if made.time is not None:
        seconds(made.time)
    return made


def seconds(time: str) -> int:
    """`1-02:30` is 95,400: in Slurm's forms. RequestError for anything else.

    >>> seconds("90"), seconds("24:00:00"), seconds("2-12"), seconds("10:30")
    (5400, 86400, 216000, 630)
    """
    found = TIME.fullmatch(time)
    if found is None:
        raise RequestError(f"--time {time!r}: how long it may run, as Slurm has it: 90 (minutes), 24:00:00, 2-12:00 "
                           "(days-hours:minutes).")
    first, second, third = (None if found[part] is None else int(found[part]) for part in ("first", "second", "third"))
    assert first is not None
    if found["days"] is not None:
        total = int(found["days"]) * 86_400 + first * 3_600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        total = first * 3_600 + (second or 0) * 60 + third
    else:
        total = first * 60 + (second or 0)
    if total == 0:
        raise RequestError(f"--time {time!r}: is no time at all.")
    return total
