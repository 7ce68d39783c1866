"""Kills at random moments: every run is started again with `--resume auto` until it ends, and then it must be the same.

    python -m reliability.chaos --kills 200 --seed 0        (from tests/, or `make chaos`)

Prints how many kills met which phase, how often runs were started again, and what differed from runs that nobody
disturbed: weights, optimizer and events, bit for bit. Exit status 1 where anything did, or where a run got stuck.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from conftest import stories, tiny

from llmkit.models.run import Run
from reliability import runs
from reliability.commands import Command, Server

PHASES = {
    "save": r"\bin (save|describe|sync|replace|discard)$", "evaluation": r"\bin evaluate$",
    "model": r"\bin (publish|finish)$", "step": r"\bin (step|batches|go_on)$",
    "set-up": r"\bin (fit|main|<module>)$",
}
"""What stands in the program's stack, the first that fits; the stack is written a moment before the kill."""
MOST = 60
"""Starts of one run before it counts as stuck."""


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """What is trained: name → recipe."""
    text, rows = folder / "stories.txt", folder / "rows.csv"
    text.write_text("\n".join(stories(120)) + "\n")
    rows.write_text("text,label\n" + "".join(
        f'"{story}",{"animal" if story.split()[1] in ("cat", "dog", "small") else "other"}\n'
        for story in stories(96, 1)))
    plan = {"max_steps": 120, "save_steps": 7, "eval_steps": 10, "global_batch_size": 16, "micro_batch_size": 8}
    made = {name: tiny(family, text, folder / name, **plan)
            for name, family in (("masked_lm", "bert"), ("causal_lm", "gpt2"), ("span_corruption", "t5"))}
    lora = tiny("bert", rows, folder / "lora", **plan)
    del lora["objective"]
    made["lora"] = {**lora, "task": "classification", "tuning": {"method": "lora", "r": 4}}
    made["weighted"] = tiny("gpt2", text, folder / "weighted", **{**plan, "dataloader_num_workers": 2})
    made["weighted"]["data"]["train"] = [{"source": str(text), "weight": 3}, {"source": str(rows), "weight": 1}]
    made["processes"] = tiny("bert", text, folder / "processes", **plan)
    made["longer"] = tiny("gpt2", text, folder / "longer", **{**plan, "lr_scheduler_type": "constant"})
    for tree in made.values():
        tree["data"]["validation"] = 0.2
    return made


class Chaos:
    """Kills, and what became of them."""

    def __init__(self, server: Server, trees: Mapping[str, dict[str, Any]], folder: Path, seed: int) -> None:
        self.server, self.trees, self.folder, self.rng = server, trees, folder, random.Random(seed)
        self.phases: Counter[str] = Counter()
        self.kills = self.starts = self.whole = 0
        self.bad: list[str] = []
        self.seconds: dict[str, float] = {}

    def processes(self, name: str) -> int:
        """How many processes a recipe is trained in."""
        return 2 if name == "processes" else 1

    def stages(self, name: str) -> list[tuple[str, ...]]:
        """What is asked for, in turn: `longer` ends after 50 steps, and is then to be as long as the others."""
        return [("--set", "training.max_steps=50"), ()] if name == "longer" else [()]

    def reference(self, name: str) -> Path:
        """The run that nobody disturbs, once."""
        run = self.folder / "whole" / name
        if not run.exists():
            path = runs.write({**self.trees[name], "output_dir": str(run)})
            began = time.monotonic()
            done = self.server.run_all("pretrain", path, processes=self.processes(name))
            assert done.status == 0, done.err
            self.seconds[name] = time.monotonic() - began
        return run

    def one(self, name: str, most: int) -> None:
        """A run from its start to its end, with at most so many kills on the way."""
        whole, run = self.reference(name), self.folder / "cut" / f"{name}-{self.whole}"
        path, before = runs.write({**self.trees[name], "output_dir": str(run)}), self.kills
        stages = self.stages(name)
        for _ in range(MOST):
            self.starts += 1
            several = self.server.start_all(
                "pretrain", path, "--resume", "auto", *stages[0], processes=self.processes(name))
            if self.kills - before < most and self.kill(name, run, several):
                for one in several:
                    one.send_all(signal.SIGKILL)
                    one.wait()
                if len(self.stages(name)) > len(stages) and not Run(run).has_model:
                    self.bad.append(f"{name}: the model of its first end is gone")
                continue
            done = [one.wait() for one in several]
            if any(one.status for one in done):
                self.bad.append(f"{name}: exit status {done[0].status}: {done[0].last}")
            elif len(stages) > 1:
                stages = stages[1:]
                continue
            elif different := runs.differences(run, whole):
                self.bad.append(f"{name}: differs in {', '.join(different)}")
            elif [event["step"] for event in runs.events(run)] != list(range(1, 121)):
                self.bad.append(f"{name}: a step doesn't stand once in metrics.jsonl")
            break
        else:
            self.bad.append(f"{name}: {MOST} starts and no end")
        self.whole += 1
        if not self.bad:
            shutil.rmtree(run)

    def kill(self, name: str, run: Path, several: list[Command]) -> bool:
        """Kill the first process, at any moment or, one time in three, while it saves something; False: it was over."""
        first = several[0]
        if self.rng.random() < 1 / 3:
            seen = self.saving(run)
            moment = self.rng.random() * 0.03
            there = first.until(lambda: self.saving(run) - seen, every=0.0005)
            if there:
                time.sleep(moment)
        else:
            until = time.monotonic() + self.rng.random() * self.seconds[name] * 0.6
            there = first.until(lambda: time.monotonic() >= until)
        if not there or first.poll() is not None:
            return False
        first.send(signal.SIGUSR1)
        where, until = first.said.with_suffix(".where"), time.monotonic() + 0.5
        while time.monotonic() < until and not (where.exists() and where.stat().st_size):
            time.sleep(0.0002)
        first.send(signal.SIGKILL)
        if first.wait().status != -signal.SIGKILL:
            return False
        self.kills += 1
        self.phases[self.phase(first)] += 1
        return True

    def saving(self, run: Path) -> set[str]:
        """What stands in the folder of a run."""
        names = set()
        with suppress(OSError):
            names |= {entry.name for place in (run, run / "checkpoints") for entry in os.scandir(place)}
        return {name for name in names if name.startswith((".step-", "step-", ".model"))}

    def phase(self, command: Command) -> str:
        """What a killed command was at."""
        path = command.said.with_suffix(".where")
        said = path.read_text() if path.exists() else ""
        where = said.partition("Current thread")[2] if "in fit" in said.partition("Current thread")[2] else said
        return next((name for name, pattern in PHASES.items() if re.search(pattern, where, re.M)), "start")


def main() -> int:
    """Run until so many kills are survived."""
    about = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    about.add_argument("--kills", type=int, default=200)
    about.add_argument("--seed", type=int, default=0)
    asked = about.parse_args()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        folder = Path(place)
        server = Server(folder / "said", {"LLMKIT_CACHE": str(folder / "cache")})
        chaos = Chaos(server, recipes(folder), folder, asked.seed)
        try:
            names = list(chaos.trees)
            while chaos.kills < asked.kills and len(chaos.bad) < 5:
                name, wrong = names[chaos.whole % len(names)], len(chaos.bad)
                chaos.one(name, min(12, asked.kills - chaos.kills))
                for line in chaos.bad[wrong:]:
                    print(line, file=sys.stderr)
                print(f"{chaos.kills:4d} kills {dict(chaos.phases)}, {chaos.starts} starts, {chaos.whole} runs ended, "
                      f"{len(chaos.bad)} wrong; last {name}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("stopped: these are the figures so far", file=sys.stderr)
        finally:
            server.stop()
    print(yaml.safe_dump({
        "kills": chaos.kills, "by phase": dict(chaos.phases), "starts": chaos.starts, "runs": chaos.whole,
        "recipes": names, "wrong": chaos.bad, "seconds": round(time.monotonic() - began)}, sort_keys=False))
    return 1 if chaos.bad else 0


if __name__ == "__main__":
    sys.exit(main())
