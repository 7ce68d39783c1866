"""nanoGPT's recipe for a CPU, to its validation loss on tiny Shakespeare: the whole process, theirs and ours.

    LLMKIT_NANOGPT=checkout LLMKIT_DATA=folder python -m benchmarks.speed.nanogpt

Its code is run from a checkout of github.com/karpathy/nanoGPT, with the words of its README; its text is prepared
before the clock starts, ours within.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs

WORDS = ("--device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 "
         "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0")
WANTED = 1.89
"""The validation loss that both have to reach."""


def prepare(folder: Path, **_: Any) -> dict[str, Any]:
    """A copy of its checkout, and its text as it prepares it."""
    shutil.copytree(os.environ["LLMKIT_NANOGPT"], folder / "nanogpt", ignore=shutil.ignore_patterns(".git", "assets"))
    data = folder / "nanogpt" / "data" / "shakespeare_char"
    shutil.copy(pairs.data("tinyshakespeare/input.txt"), data / "input.txt")
    (folder / "stubs").mkdir()  # its script imports requests, for a download that isn't needed
    (folder / "stubs" / "requests.py").write_text("")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True,
                   env={**os.environ, "PYTHONPATH": str(folder / "stubs")})
    return {}


def ours(folder: Path, turn: int, **_: Any) -> dict[str, Any]:
    os.environ["LLMKIT_CACHE"] = str(folder / f"cache-{turn}")
    from llmkit import recipe as recipes
    from llmkit.training.fit import fit

    asked = recipes.load("shakespeare_char", [
        f"data.train={pairs.data('tinyshakespeare/input.txt')}", f"output_dir={folder / f'ours-{turn}'}"])
    return {"loss": fit(asked)["evaluation"]["loss"]}


def stock(folder: Path, turn: int, **_: Any) -> dict[str, Any]:
    said = subprocess.run(
        [sys.executable, "train.py", "config/train_shakespeare_char.py", *WORDS.split(), f"--out_dir=out-{turn}"],
        cwd=folder / "nanogpt", check=True, capture_output=True, text=True).stdout
    return {"loss": min(float(loss) for loss in re.findall(r"val loss ([\d.]+)", said))}


def run(full: bool) -> list[pairs.Row]:
    """Seconds of the whole process."""
    if "LLMKIT_NANOGPT" not in os.environ:
        print("nanogpt: left out; LLMKIT_NANOGPT says where a checkout of it is.", file=sys.stderr)
        return []
    with pairs.Bench(__name__) as bench:
        bench.run("prepare")
        mine, theirs = bench.turns(("ours", "stock"), 3 if full else 1)
    for one in (*mine, *theirs):
        one.found["seconds"] = one.seconds
    losses = [[one.found["loss"] for one in side] for side in (mine, theirs)]
    return [pairs.row("nanoGPT's CPU recipe, 2,000 steps", "seconds, whole process", "seconds", mine, theirs, less=True,
                      goal=1 / 0.8, beside="nanoGPT", reached=f"validation loss {max(losses[0]):.3f} / "
                      f"{max(losses[1]):.3f}, wanted {WANTED}")]


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock)
