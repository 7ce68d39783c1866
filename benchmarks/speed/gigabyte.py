"""A large text against a small one: peak memory may grow by the index of the documents only, time as the text does.

    LLMKIT_DATA=folder python -m benchmarks.speed.gigabyte          # 100 MB
    LLMKIT_DATA=folder python -m benchmarks.speed.gigabyte --full   # 1 GB: some 3 GB of disk for a while

A whole run each: `llmkit pretrain` of a tiny model, tokens and rows made, a few steps. The stock way isn't run.
"""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed import corpus, pairs

SMALL = 10
STEPS = 5


def prepare(folder: Path, megabytes: int, **_: Any) -> dict[str, Any]:
    """Both texts and the tokenizer."""
    from transformers import BertConfig, BertTokenizer

    for size in (SMALL, megabytes):
        corpus.write(folder / f"{size}.txt", size)
    BertTokenizer(str(pairs.data("tokenizers/bert-base-uncased/vocab.txt"))).save_pretrained(folder / "tokenizer")
    BertConfig().save_pretrained(folder / "tokenizer")
    return {}


def train(folder: Path, size: int, turn: int, **_: Any) -> dict[str, Any]:
    """Make rows of a text and take a few steps; seconds until the first step, and bytes of the index."""
    import time

    os.environ["LLMKIT_CACHE"] = str(folder / f"cache-{size}-{turn}")
    from llmkit import recipe as recipes
    from llmkit.objectives.base import Objective
    from llmkit.training.fit import fit

    found: dict[str, Any] = {}
    prepare = Objective.prepare

    def timed(self: Any, *arguments: Any) -> Any:
        start, cpu = time.perf_counter(), time.process_time()
        sets = prepare(self, *arguments)
        found.update(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu,
                     index_bytes=sum(index(text.rows) for text in sets.train))
        return sets

    Objective.prepare = timed  # type: ignore[method-assign]
    recipe = {
        "name": "large", "backbone": {"family": "bert", "size": "tiny"},
        "tokenizer": {"pretrained": str(folder / "tokenizer")},
        "data": {"train": str(folder / f"{size}.txt"), "max_length": 128}, "objective": "masked_lm",
        "training": {"max_steps": STEPS, "global_batch_size": 16},
        "output_dir": str(folder / f"run-{size}-{turn}-{len(list(folder.glob('run-*')))}")}
    fit(recipes.load(recipe))
    lines = (Path(recipe["output_dir"]) / "metrics.jsonl").read_text().splitlines()  # type: ignore[arg-type]
    found["rows"] = round(STEPS * 16 / json.loads(lines[-1])["epoch"])
    # the order of a pass: which row, and for which time it is seen
    return {**found, "index_bytes": found["index_bytes"] + 16 * found["rows"],
            "megabytes_per_second": (folder / f"{size}.txt").stat().st_size / 1e6 / found["seconds"]}


def index(rows: Any) -> int:
    """Bytes of the arrays that say where documents and rows are; the tokens themselves are mapped."""
    documents = rows.wrapped.documents
    held = [*vars(rows).values(), *vars(rows.wrapped).values(), documents.starts, documents.stops, documents.digests]
    return sum(part.nbytes for part in held if hasattr(part, "nbytes"))


def run(full: bool) -> list[pairs.Row]:
    """Memory and time of a text a hundred (ten) times as large, first and from the cache."""
    megabytes = 1000 if full else 100
    with pairs.Bench(__name__, megabytes=megabytes) as bench:
        bench.run("prepare")
        both: dict[int, list[pairs.Ran]] = {SMALL: [], megabytes: []}
        again: dict[int, list[pairs.Ran]] = {SMALL: [], megabytes: []}
        for turn in range(3 if full else 1):
            for size in both:
                both[size].append(bench.run("train", size=size, turn=turn))
                again[size].append(bench.run("train", size=size, turn=turn))
    small, large = both[SMALL], both[megabytes]
    held = [statistics.median(one.peak - one.found["index_bytes"] for one in runs) / 2**20 for runs in (large, small)]
    what = f"{megabytes} MB of text"
    grown = pairs.median(large, "index_bytes") / 2**20
    return [
        pairs.Row(f"{what}, first start", "MB of peak memory, less the index", held[0], held[1], goal=0.95, less=True,
                  memory=peaks(large, small), beside=f"{SMALL} MB of text", reached=f"an index of {grown:.0f} MB"),
        pairs.row(f"{what}, first start", "MB to rows a second", "megabytes_per_second", large, small, goal=0.9,
                  beside=f"{SMALL} MB of text"),
        pairs.Row(f"{what}, second start", "seconds to rows", pairs.median(again[megabytes], "seconds"), 1.0, goal=1.0,
                  less=True, beside="the goal", memory=peaks(again[megabytes], again[SMALL]))]


def peaks(large: Sequence[pairs.Ran], small: Sequence[pairs.Ran]) -> tuple[int, int]:
    """Median peak memory of both."""
    ours, theirs = (int(statistics.median(one.peak for one in runs)) for runs in (large, small))
    return ours, theirs


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, train=train)
