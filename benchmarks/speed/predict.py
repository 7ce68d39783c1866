"""Saying what many short texts are: predict and evaluate of a tuned MiniLM, beside what transformers' pipeline takes.

The pipeline is told to take 32 texts at once, and is given them one after the other, as its documentation has it.

    LLMKIT_DATA=folder python -m benchmarks.speed.predict
"""

import itertools
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

FIELDS = {"text": 0, "label": 1}


def prepare(folder: Path, rows: int) -> dict[str, Any]:
    """Tune MiniLM for a few steps, and write the rows that both sides read."""
    lines = pairs.data("sst2/train.tsv").read_text(encoding="utf-8").splitlines()
    chosen = list(itertools.islice(itertools.cycle(lines), rows))
    (folder / "rows.jsonl").write_text("".join(
        json.dumps(dict(zip(("text", "label"), line.split("\t"), strict=True))) + "\n" for line in chosen))
    training.fit({
        "name": "tuned", "backbone": {"pretrained": "minilm-l6"}, "task": "classification",
        "output_dir": str(folder / "tuned"),
        "data": {"train": {"source": str(pairs.data("sst2/train.tsv")), "fields": FIELDS}, "validation": 0.05},
        "training": {"max_steps": 20, "global_batch_size": 32, "learning_rate": 1e-4}}, skipped=5)
    return {}


def ours(folder: Path, rows: int, turn: int) -> dict[str, Any]:
    from llmkit.inference.predict import predict
    from llmkit.models import open_model

    opened = open_model(folder / "tuned")
    return timed(folder, "ours", rows, lambda: [one["label"] for one in predict(opened, folder / "rows.jsonl") if one])


def stock(folder: Path, rows: int, turn: int) -> dict[str, Any]:
    from transformers import pipeline

    pipe: Any = pipeline("text-classification", model=str(folder / "tuned" / "model"))

    def texts() -> Any:
        with (folder / "rows.jsonl").open() as file:
            yield from (json.loads(line)["text"] for line in file)

    return timed(folder, "stock", rows, lambda: [one["label"] for one in pipe(texts(), batch_size=32)])


def timed(folder: Path, name: str, rows: int, say: Any) -> dict[str, Any]:
    """Rows a second of `say()`, which gives each row's label; they are kept."""
    start = time.perf_counter()
    labels = say()
    seconds = time.perf_counter() - start
    (folder / f"{name}.json").write_text(json.dumps(labels))
    return {"rows_per_second": rows / seconds}


def run(full: bool) -> list[pairs.Row]:
    """10,000 rows, or 4,000."""
    rows = 10_000 if full else 4_000
    with pairs.Bench(__name__, rows=rows) as bench:
        bench.run("prepare")
        mine, theirs = bench.turns(("ours", "stock"), 3)
        labels = [json.loads((bench.folder / f"{name}.json").read_text()) for name in ("ours", "stock")]
    same = sum(a == b for a, b in zip(*labels, strict=True))
    return [pairs.row(f"predict, MiniLM, {rows:,} short rows", "rows a second", "rows_per_second", mine, theirs,
                      goal=4.0, beside="pipeline, batch_size=32", reached=f"{same:,} of {rows:,} labels the same")]


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock)
