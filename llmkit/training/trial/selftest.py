"""The self-test: tiny models trained twice, killed, resumed, compared bit for bit, and a step split in several ways."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from llmkit import recipe as recipes
from llmkit.models.run import Run
from llmkit.planning.doctor import Finding
from llmkit.system import devices
from llmkit.system.errors import CheckpointError, LlmkitError
from llmkit.training.fit import fit

log = logging.getLogger("llmkit")

STEPS, SAVED, KILLED = 120, 10, 45
"""Optimizer steps of a run, steps between two checkpoints, and the step after which it is killed."""
PATIENCE = 240.0
"""Seconds until a run that says nothing is given up."""
SPLITS = (8, 4, 2, 1)
"""Rows of a micro-batch, in a step of eight."""
MODELS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": ("causal_lm", {"n_embd": 32, "n_head": 2, "n_positions": 64},
             {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "bert": ("masked_lm", {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
             {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "t5": ("span_corruption", {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64}, {"dropout_rate": 0.0}),
}
"""By family: its objective, its config, and the same without dropout, which differs between splits."""


def examine() -> Iterator[Finding]:
    """A finding for each family and promise. Works in a temporary folder, in one thread, and asks no network."""
    with tempfile.TemporaryDirectory(prefix="llmkit-selftest-") as place, _alone(Path(place)):
        folder = Path(place)
        text = folder / "stories.txt"
        text.write_text("\n".join(stories(120)))
        trees = {family: recipe(family, text, folder / "cut" / family) for family in MODELS}
        with ThreadPoolExecutor(len(trees)) as pool:  # the processes that are killed start while this one trains
            killed = {family: pool.submit(kill_and_resume, tree) for family, tree in trees.items()}
            for family, tree in trees.items():
                whole = {**tree, "output_dir": str(folder / "whole" / family)}
                yield _told(f"{family} split", partial(split, family, text, folder))
                yield _told(f"{family} twice", partial(twice, whole, folder / "again" / family))
            for family in trees:
                yield _told(f"{family} resume", partial(resumed, folder / "whole" / family, folder / "cut" / family,
                                                        killed[family]))


def _told(about: str, test: Callable[[], str]) -> Finding:
    """What a test says, or what is wrong."""
    try:
        return Finding(about, "ok", test())
    except LlmkitError as error:
        return Finding(about, "problem", str(error).rstrip("."),
                       "Please report this, with what `llmkit doctor --json` says.", type(error))


def recipe(family: str, text: Path, folder: Path, **training: Any) -> dict[str, Any]:
    """A run of a tiny model, with dropout."""
    objective, config, _ = MODELS[family]
    return {
        "name": f"selftest-{family}", "backbone": {"family": family, "size": "tiny", "config": dict(config)},
        "tokenizer": {"train": {"vocab_size": 300}}, "data": {"train": str(text), "max_length": 32},
        "objective": {"name": objective}, "output_dir": str(folder),
        "training": {"max_steps": STEPS, "save_steps": SAVED, "global_batch_size": 8, "learning_rate": 1e-3,
                     "logging_steps": 1, "precision": "fp32",
                     "full_determinism": not devices.on_cpu(), "figures": False, **training}}


def kill_and_resume(tree: dict[str, Any]) -> int:
    """Train in a process of its own, kill it, and train again to the end; return the step that it was killed after.

    CheckpointError where it can't go on.
    """
    folder = Path(tree["output_dir"])
    path = folder.with_suffix(".json")  # JSON is YAML
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    command = [sys.executable, "-P", "-m", "llmkit", "pretrain", str(path)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while running.poll() is None and time.monotonic() < deadline and _steps(folder) < KILLED:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    _, said = running.communicate()
    after = _steps(folder)
    if running.returncode != -signal.SIGKILL or after < KILLED:
        raise CheckpointError(f"the run ended by itself with status {running.returncode} after step {after}: "
                              f"{_last(said)}")
    try:
        done = subprocess.run(
            [*command, "--resume", "must"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"killed after step {after}, the run doesn't go on within {PATIENCE:.0f} s") from error
    if done.returncode:
        raise CheckpointError(f"killed after step {after}, the run can't go on: {_last(done.stderr)}")
    return after


def resumed(whole: Path, cut: Path, killed: Future[int]) -> str:
    """What the comparison of an unbroken run with a killed one came to; CheckpointError where they differ."""
    after = killed.result()
    ours, theirs = (load_file(Run(folder).model / "model.safetensors") for folder in (whole, cut))
    other = [name for name in ours if name not in theirs or not torch.equal(ours[name], theirs[name])]
    if other or ours.keys() != theirs.keys():
        raise CheckpointError(f"killed after step {after} and resumed, {len(other)} of {len(ours)} tensors differ from "
                              f"those of an unbroken run, {other[0] if other else 'their names'} first")
    losses = [[event["loss"] for event in _events(folder)] for folder in (whole, cut)]
    if losses[0] != losses[1] or len(losses[0]) != STEPS:
        raise CheckpointError(f"killed after step {after} and resumed, its {len(losses[1])} losses aren't the "
                              f"{len(losses[0])} of an unbroken run")
    return (f"killed after step {after} of {STEPS} and resumed: {len(ours)} tensors and {STEPS} losses are bit for bit "
            "those of an unbroken run")


def twice(tree: dict[str, Any], again: Path) -> str:
    """Train a run and train it anew; CheckpointError where they differ: then none that is resumed can be the same."""
    fit(recipes.load(tree))
    fit(recipes.load({**tree, "output_dir": str(again)}))
    ours, theirs = (load_file(Run(folder).model / "model.safetensors") for folder in (Path(tree["output_dir"]), again))
    if other := [name for name in ours if not torch.equal(ours[name], theirs[name])]:
        raise CheckpointError(f"two unbroken runs differ in {len(other)} of {len(ours)} tensors, {other[0]} first: "
                              "this device doesn't repeat itself, so no resumed run can be compared")
    return f"two unbroken runs of {STEPS} steps are the same bit for bit"


def split(family: str, text: Path, folder: Path) -> str:
    """Train one step of eight rows in micro-batches of 8, 4, 2 and 1; LlmkitError where that changes anything."""
    found = []
    for rows in SPLITS:
        tree = recipe(family, text, folder / "split" / f"{family}-{rows}", micro_batch_size=rows, max_steps=1)
        tree["backbone"]["config"] |= MODELS[family][2]
        fit(recipes.load(tree))
        found.append(_events(Path(tree["output_dir"]))[0])
    apart = max(abs(one[name] / found[0][name] - 1) for one in found for name in ("loss", "grad_norm"))
    ways = ", ".join(f"{8 // rows} x {rows}" for rows in SPLITS)
    if not apart <= 1e-5:
        raise LlmkitError(f"a step of 8 rows split as {ways}: loss or gradient differ by {apart:.1g} of themselves")
    return f"a step of 8 rows split as {ways}: loss and gradient differ by {apart:.1g} of themselves at most"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One thread, here and in the processes that are started, a cache of its own, no network, no log lines."""
    variables = {"OMP_NUM_THREADS": "1", "LLMKIT_CACHE": str(folder / "cache"), "LLMKIT_OFFLINE": "1",
                 "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in variables}
    threads, level = torch.get_num_threads(), log.level
    os.environ.update(variables)
    torch.set_num_threads(1)
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        torch.set_num_threads(threads)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def stories(count: int) -> list[str]:
    """Documents of one to six short sentences."""
    words = [some.split("|") for some in (
        "the cat|a dog|my friend|the old king|a small bird", "saw|chased|found|loved|carried",
        "the moon|a red ball|some bread|the long river|a hat")]
    rng = random.Random(0)
    return [" ".join(f"{' '.join(map(rng.choice, words))} ." for _ in range(rng.randint(1, 6))) for _ in range(count)]


def _events(folder: Path) -> list[dict[str, Any]]:
    return [event for event in Run(folder).events if event["event"] == "train"]


def _steps(folder: Path) -> int:
    return len(_events(folder))


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
    return lines[-1].removeprefix("llmkit: error: ").rstrip(".")
