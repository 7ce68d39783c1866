"""Programs that do the same work, run by turns, each in a process of its own: medians, ratio, memory.

A module of this package measures one piece of work. It names its sides, functions that do the work and return what
they found, and `run(full)`, which calls `by_turns` and makes rows of a table. Nothing here or at a module's top level
imports torch: a child's peak memory counts from its parent's, so the parent stays small.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "found: "
"""Before the line in which a side says what it found."""
Side = Callable[..., dict[str, Any]]
"""Does the work in `folder`, with the given options, and returns what it found."""


@dataclass(frozen=True)
class Ran:
    """One process that has ended."""

    seconds: float
    """From its start to its end, imports included."""
    peak: int
    """The most memory that it held, in bytes."""
    found: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    work: str
    figure: str
    """What is measured, with its unit: tokens a second, seconds …"""
    ours: float
    stock: float
    goal: float | None = None
    """What the ratio should reach."""
    less: bool = False
    """Whether less of the figure is better (seconds): the ratio is the other way round then."""
    memory: tuple[int, int] | None = None
    """Peak memory of the whole process, ours and theirs, in bytes."""
    memory_goal: float | None = None
    """What our share of their memory may be."""
    reached: str = ""
    """What both sides reached, so that speed isn't bought with quality."""
    beside: str = "the stock way"
    """Who the other is."""
    seen: tuple[float, float] | None = None
    """The lowest and the highest ratio of a turn."""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        return self.stock / self.ours if self.less else self.ours / self.stock

    @property
    def memory_share(self) -> float | None:
        """Our peak memory as a share of theirs."""
        return None if self.memory is None else self.memory[0] / self.memory[1]

    @property
    def met(self) -> bool | None:
        """Whether the goals are met; None where there is none."""
        met = [self.ratio >= self.goal] if self.goal is not None else []
        if self.memory_goal is not None and self.memory_share is not None:
            met.append(self.memory_share <= self.memory_goal)
        return all(met) if met else None


def data(path: str) -> Path:
    """A file of LLMKIT_DATA; ends the program where there is none."""
    root = os.environ.get("LLMKIT_DATA")
    if not root:
        sys.exit("LLMKIT_DATA: say which folder holds the data sets (docs/performance.md lists them).")
    return Path(root) / path


class Bench:
    """Runs the sides of a module, all in one folder, which is gone afterwards.

    with Bench(__name__, length=128) as bench:
        bench.run("prepare")
        runs = bench.turns(("ours", "stock"), 3)
    """

    def __init__(self, module: str, **options: Any) -> None:
        spec = sys.modules[module].__spec__  # where a module is run, its name is __main__
        self.module = module if spec is None else spec.name
        self.options = options

    def __enter__(self) -> "Bench":
        self.held = tempfile.TemporaryDirectory(prefix="llmkit-speed-")
        self.folder = Path(self.held.name)
        return self

    def __exit__(self, *_: object) -> None:
        self.held.cleanup()

    def run(self, side: str, **options: Any) -> Ran:
        """Run a side in a process of its own; end the program, with what it said, where it fails."""
        command = [sys.executable, "-m", self.module, "--side", side, "--folder", str(self.folder),
                   "--options", json.dumps({**self.options, **options})]
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as said:
            child = subprocess.Popen(command, env={"HF_HUB_OFFLINE": "1", **os.environ}, stdout=said, stderr=said)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - start
            said.seek(0)
            lines = said.read().splitlines()
        if child.returncode:
            sys.exit("\n".join([*lines[-30:], f"{self.module}: {side} ended with status {child.returncode}"]))
        found = next((line for line in reversed(lines) if line.startswith(MARK)), MARK + "{}")
        one = Ran(seconds, usage.ru_maxrss * 1024, json.loads(found.removeprefix(MARK)))
        print(f"  {self.module.rpartition('.')[2]} {side}: {one.seconds:.1f} s, {one.peak / 2**20:,.0f} MB, "
              f"{short(one.found)}", file=sys.stderr, flush=True)
        return one

    def turns(self, sides: Sequence[str], rounds: int, **options: Any) -> list[list[Ran]]:
        """Run the sides one after the other, `rounds` times, every other time in reverse; each is told its `turn`."""
        found: dict[str, list[Ran]] = {side: [] for side in sides}
        for turn in range(rounds):
            for side in sides if turn % 2 == 0 else reversed(sides):
                found[side].append(self.run(side, turn=turn, **options))
        return [found[side] for side in sides]


def short(found: Mapping[str, Any]) -> str:
    """What was found, without its long parts."""
    return ", ".join(f"{name} {value:,.4g}" for name, value in found.items() if isinstance(value, int | float))


def median(runs: Sequence[Ran], name: str) -> float:
    """The median of what the runs found."""
    return statistics.median(float(one.found[name]) for one in runs)


def row(
    work: str, figure: str, name: str, ours: Sequence[Ran], stock: Sequence[Ran], **more: Any,
) -> Row:
    """A row from the runs of two sides: medians of the figure `name`, of peak memory, and each turn's ratio."""
    peaks = [int(statistics.median(one.peak for one in runs)) for runs in (ours, stock)]
    turns = [a.found[name] / b.found[name] for a, b in zip(ours, stock, strict=True)]
    turns = [1 / turn for turn in turns] if more.get("less") else turns
    return Row(work, figure, median(ours, name), median(stock, name), memory=(peaks[0], peaks[1]),
               seen=(min(turns), max(turns)), **more)


def apart(what: str, found: Mapping[str, float]) -> str:
    """What the runs of both sides reached, named `ours-0`, `stock-0` …: their means, and how far the turns spread."""
    sides = [[value for name, value in found.items() if name.startswith(side)] for side in ("ours", "stock")]
    means = [statistics.mean(some) for some in sides]
    spread = max(max(some) - min(some) for some in sides)
    return f"{what} {means[0]:.3f} / {means[1]:.3f}" + (f" (turns spread by {spread:.3f})" if spread else "")


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = ["| work | figure | llmkit | beside it | ratio (turns) | goal | memory | goal | what both reached |",
             "|---|---|---|---|---|---|---|---|---|"]
    for one in rows:
        seen = f" ({one.seen[0]:.2f} to {one.seen[1]:.2f})" if one.seen else ""
        memory = share = ""
        if one.memory is not None:
            memory = f"{one.memory[0] / 2**20:,.0f} / {one.memory[1] / 2**20:,.0f} MB = {one.memory_share:.2f}"
            share = f"≤ {one.memory_goal:g}" if one.memory_goal is not None else ""
        goal = "" if one.goal is None else f"≥ {one.goal:g}"
        mark = {True: " ✓", False: " ✗", None: ""}[one.met]
        lines.append(f"| {one.work} | {one.figure} | {one.ours:,.4g} | {one.stock:,.4g} ({one.beside}) | "
                     f"**{one.ratio:.2f} ×**{seen} | {goal}{mark} | {memory} | {share} | {one.reached} |")
    return "\n".join(lines)


def main(run: Callable[[bool], list[Row]], **sides: Side) -> None:
    """The command line of a module: its table, or (for its own children) one side."""
    options = argparse.ArgumentParser()
    options.add_argument("--full", action="store_true", help="full size, more turns")
    options.add_argument("--side", choices=list(sides), help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.side is None:
        print(table(run(given.full)))
    else:
        print(MARK + json.dumps(sides[given.side](given.folder, **given.options)), flush=True)
