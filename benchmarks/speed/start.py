"""From the command to the first step with everything cached, against the imports; and the wait for data in a run.

    LLMKIT_DATA=folder python -m benchmarks.speed.start

The floor imports torch, accelerate's Accelerator and the model's class, and builds the model; nothing that trains it
in Python can start sooner.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import corpus, pairs

BEYOND = 1.5
"""Seconds beyond the floor that a start may take."""
SHARE = 2.0
"""Per cent of the time that steps may wait for data."""
SIZE = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}


def prepare(folder: Path, megabytes: int, **_: Any) -> dict[str, Any]:
    """A text, a tokenizer, and the cache of a first run."""
    from transformers import BertConfig, BertTokenizer

    corpus.write(folder / "stories.txt", megabytes)
    BertTokenizer(str(pairs.data("tokenizers/bert-base-uncased/vocab.txt"))).save_pretrained(folder / "tokenizer")
    BertConfig().save_pretrained(folder / "tokenizer")
    return ours(folder, time.time(), turn=-1)


def ours(folder: Path, began: float, turn: int, **_: Any) -> dict[str, Any]:
    """`llmkit pretrain`; the last line before the first step says how rows are packed."""
    os.environ["LLMKIT_CACHE"] = str(folder / "cache")
    found: dict[str, Any] = {}

    class Clock(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("packing"):
                found.update(seconds=time.time() - began, cpu_seconds=time.process_time())

    logging.getLogger("llmkit").addHandler(Clock())
    from llmkit.cli import main

    (folder / "recipe.yaml").write_text(
        f"name: start\nbackbone: {{family: bert, config: {SIZE}}}\n"
        f"tokenizer: {{pretrained: {folder / 'tokenizer'}}}\ndata: {{train: {folder / 'stories.txt'}}}\n"
        "objective: masked_lm\ntraining: {max_steps: 1, global_batch_size: 1}\n")
    status = main(["pretrain", str(folder / "recipe.yaml"), "--output-dir", str(folder / f"run-{turn}"), "--json"])
    if status or not found:
        raise SystemExit(f"pretrain ended with status {status}")
    return found


def floor(folder: Path, began: float, turn: int, **_: Any) -> dict[str, Any]:
    import torch  # noqa: F401
    from accelerate import Accelerator
    from transformers import BertConfig, BertForMaskedLM

    Accelerator(cpu=True)
    BertForMaskedLM(BertConfig(**SIZE))
    return {"seconds": time.time() - began, "cpu_seconds": time.process_time()}


def waits(folder: Path, what: str, **_: Any) -> dict[str, Any]:
    """The share of the time that the steps of a run waited for data, in per cent."""
    from llmkit import recipe as recipes
    from llmkit.training.fit import fit

    os.environ["LLMKIT_CACHE"] = str(folder / "cache")
    if what == "shakespeare_char":
        asked = recipes.load(what, fields={
            "data.train": [{"source": str(pairs.data("tinyshakespeare/input.txt"))}], "data.validation": None,
            "training.max_steps": 600, "output_dir": str(folder / what)})
    else:
        asked = recipes.load({
            "name": what, "output_dir": str(folder / what), "data": {"train": str(folder / "stories.txt")},
            "tokenizer": {"pretrained": str(folder / "tokenizer")}, "objective": "masked_lm",
            "backbone": {"family": "bert", "config": SIZE},
            "training": {"max_steps": 20, "global_batch_size": 32, "save_steps": 1000}})
    summary = fit(asked)
    return {"percent": 100 * summary["data_wait"], "tokens_per_second": summary["tokens_per_second"]}


def run(full: bool) -> list[pairs.Row]:
    """Start and wait."""
    megabytes = 1000 if full else 20
    with pairs.Bench(__name__, megabytes=megabytes) as bench:
        bench.run("prepare")
        sides: dict[str, list[pairs.Ran]] = {"ours": [], "floor": []}
        for turn in range(5 if full else 2):
            for side in sorted(sides, reverse=bool(turn % 2)):
                sides[side].append(bench.run(side, turn=turn, began=time.time()))
        least = pairs.median(sides["floor"], "seconds")
        beyond = pairs.median(sides["ours"], "seconds") - least
        cpu = [pairs.median(sides[side], "cpu_seconds") for side in ("ours", "floor")]
        rows = [pairs.row(
            f"command to first step, {megabytes} MB of text cached", "seconds", "seconds", sides["ours"],
            sides["floor"], goal=round(least / (least + BEYOND), 3), less=True, beside="imports and the model",
            reached=f"{beyond:.2f} s beyond (goal {BEYOND}), {cpu[0] - cpu[1]:.2f} s of CPU")]
        for what in ("bert_4x256", "shakespeare_char"):
            one = bench.run("waits", what=what)
            rows.append(pairs.Row(f"waiting for data, {what}", "% of the steps' time", one.found["percent"], SHARE,
                                  goal=1.0, less=True, beside="the goal"))
    return rows


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, floor=floor, waits=waits)
