"""Tuning what lies on top: a head, the last layer, with what lies below computed once, beside computing it each time.

    LLMKIT_DATA=folder python -m benchmarks.speed.frozen

Whole runs of MiniLM on SST-2, without dropout, so that both sides learn the same; the first turn computes the states.
"""

from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

METHODS: dict[str, dict[str, Any]] = {"head": {"method": "head"}, "the last layer": {"method": "layers", "n": 1}}
STILL = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}


def prepare(folder: Path, rows: int, **_: Any) -> dict[str, Any]:
    """The first rows."""
    lines = pairs.data("sst2/train.tsv").read_text(encoding="utf-8").splitlines()[:rows]
    (folder / "rows.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {}


def ours(folder: Path, method: str, epochs: int, turn: int, kept: bool = True, **_: Any) -> dict[str, Any]:
    fields = {"fields": {"text": 0, "label": 1}}
    found = training.fit({
        "name": "frozen", "seed": turn + 1, "backbone": {"pretrained": "minilm-l6", "config": STILL},
        "task": "classification", "tuning": METHODS[method], "output_dir": str(folder / f"{kept}-{method}-{turn}"),
        "data": {"train": {"source": str(folder / "rows.tsv"), **fields},
                 "validation": [{"source": str(pairs.data("sst2/dev.tsv")), **fields}]},
        "training": {"num_train_epochs": epochs, "global_batch_size": 32, "figures": False, "cache_frozen": kept}})
    return {**found, "accuracy": found["evaluation"]["accuracy"]}


def computed(folder: Path, **options: Any) -> dict[str, Any]:
    """llmkit as it is where nothing is said."""
    return ours(folder, **options, kept=False)


def run(full: bool) -> list[pairs.Row]:
    """A head and a last layer, some epochs of a few rows."""
    found = []
    with pairs.Bench(__name__, rows=6400 if full else 800, epochs=8) as bench:
        bench.run("prepare")
        for method in METHODS:
            mine, theirs = bench.turns(("ours", "computed"), 3 if full else 2, method=method)
            reached = {f"{side}-{turn}": one.found["accuracy"] for side, runs in (("ours", mine), ("stock", theirs))
                       for turn, one in enumerate(runs)}
            found.append(pairs.row(
                f"`{method}`, MiniLM, what lies below computed once", "tokens a second", "tokens_per_second", mine,
                theirs, goal=5.0, beside="computed in each step", reached=pairs.apart("dev accuracy", reached)))
    return found


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, computed=computed)
