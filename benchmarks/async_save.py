"""How long a run stands still for its checkpoints: `training.async_save` beside waiting for them, turn by turn.

    python benchmarks/async_save.py                      # a model of 52 MB, whose checkpoints have 156 MB
    python benchmarks/async_save.py --steps 60 --every 20 --turns 3

What is timed is all that the loop does about a checkpoint: whether numbers are finite, the copy or the file, waiting
for the one before, the summary. The last checkpoint of a run isn't counted, for no step follows it. Steps beside which
one is written are slower where there are no cores to spare, so the time of the whole loop stands beside it.
"""

import argparse
import logging
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any


def recipe(folder: Path, beside: bool, steps: int, every: int) -> dict[str, Any]:
    """A GPT-2 of 13 million parameters, which trains by AdamW in fp32."""
    return {
        "backbone": {"family": "gpt2", "size": "tiny", "config": {"n_layer": 6, "n_embd": 384, "n_head": 6}},
        "tokenizer": {"train": {"vocab_size": 6000}}, "objective": "causal_lm",
        "data": {"train": str(folder / "text.txt"), "max_length": 64},
        "training": {"max_steps": steps, "save_steps": every, "save_total_limit": 1, "global_batch_size": 8,
                     "precision": "fp32", "figures": False, "async_save": beside},
        "output_dir": str(folder / "run")}


def write(path: Path) -> None:
    """Lines of words that nobody knows: a vocabulary of the size that is asked for."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    path.write_text("".join(" ".join(rng.choices(words, k=30)) + "\n" for _ in range(3_000)))


def measure(folder: Path, beside: bool, steps: int, every: int) -> dict[str, float]:
    """A run: seconds a checkpoint that the loop stood still, and seconds of the loop from its first step on."""
    import shutil

    import llmkit
    from llmkit.training import loop

    shutil.rmtree(folder / "run", ignore_errors=True)
    spent, usual = [0.0], {name: getattr(loop, name) for name in ("save", "wait")}

    def timed(name: str) -> Callable[..., None]:
        def call(session: Any, *given: Any) -> None:
            began, last = time.monotonic(), name == "save" and session.over
            if last:  # what is on its way is waited for, but that isn't the next step's time
                session.aside.end()
            usual[name](session, *given)
            if not last:
                spent[0] += time.monotonic() - began

        return call

    class Clock(llmkit.Callback):
        def on_step(self, view: Any) -> None:
            self.ended = time.monotonic()
            if view.step == 1:
                self.began = self.ended

    clock = Clock()
    for name in usual:
        setattr(loop, name, timed(name))
    try:
        llmkit.fit(recipe(folder, beside, steps, every), callbacks=[clock])
    finally:
        for name, call in usual.items():
            setattr(loop, name, call)
    size = sum(path.stat().st_size for path in next((folder / "run" / "checkpoints").iterdir()).iterdir())
    return {"still": spent[0] / (steps // every - 1), "loop": clock.ended - clock.began, "size": size}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--steps", type=int, default=40)
    asked.add_argument("--every", type=int, default=10)
    asked.add_argument("--turns", type=int, default=3)
    given = asked.parse_args()
    logging.getLogger("llmkit").setLevel(logging.ERROR)
    runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as away:
        write(Path(away) / "text.txt")
        for turn in range(given.turns):
            for beside, found in runs.items():
                found.append(one := measure(Path(away), beside, given.steps, given.every))
                print(f"turn {turn + 1}, {'beside steps' if beside else 'waiting'}: {1000 * one['still']:.0f} ms a "
                      f"checkpoint of {one['size'] / 1e6:.0f} MB; the loop {one['loop']:.2f} s", flush=True)
    still, loop = ({beside: median(one[what] for one in found) for beside, found in runs.items()}
                   for what in ("still", "loop"))
    print(f"the loop stands still {still[True] / still[False]:.3f} of the time; the whole of it takes "
          f"{loop[True] / loop[False]:.2f} of the time")


if __name__ == "__main__":
    main()
