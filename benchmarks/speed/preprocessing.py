"""Preprocessing a large text to rows: read, tokenize, pack, and leave the result where training maps it.

    LLMKIT_DATA=folder python -m benchmarks.speed.preprocessing

The stock way is `load_dataset("text")`, `map` to tokens and `map` with `group_texts`, as in run_mlm and run_clm. Of the
stories, one word in a hundred is changed into a new one; the Python documentation is small, and rich in words.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import corpus, pairs, training

OBJECTIVES = {"bert": "masked_lm", "gpt2": "causal_lm"}


def prepare(folder: Path, megabytes: float, **_: Any) -> dict[str, Any]:
    """The texts and the tokenizers."""
    from transformers import BertTokenizer, GPT2Tokenizer

    from llmkit.data.sources import open_source
    from llmkit.recipe import Source

    corpus.write(folder / "stories.txt", megabytes)
    documents = (text for text, _ in open_source(Source("builtin:python-docs")).documents())
    (folder / "documentation.txt").write_text("\n\n".join(documents) + "\n")
    place = pairs.data("tokenizers")
    BertTokenizer(str(place / "bert-base-uncased" / "vocab.txt")).save_pretrained(folder / "bert")
    GPT2Tokenizer(str(place / "gpt2" / "vocab.json"), str(place / "gpt2" / "merges.txt")).save_pretrained(
        folder / "gpt2")
    return {}


def ours(folder: Path, text: str, family: str, turn: int, **_: Any) -> dict[str, Any]:
    from llmkit.data import tokenizer as tokenizers
    from llmkit.data.sources import open_source
    from llmkit.objectives.base import Setup
    from llmkit.recipe import Source, registry

    os.environ["LLMKIT_CACHE"] = str(folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    tokenizer = tokenizers.load(folder / family)
    objective = registry.find("objectives", OBJECTIVES[family])()
    setup = Setup(tokenizer, registry.find("backbones", family), 128, "blocks", seed=1)

    def rows() -> int:
        return len(objective.prepare([open_source(Source(str(folder / f"{text}.txt")))], None, setup).train[0])

    found = timed(folder / f"{text}.txt", rows)
    return {**found, "again_seconds": timed(folder / f"{text}.txt", rows)["seconds"]}


def stock(folder: Path, text: str, family: str, turn: int, **_: Any) -> dict[str, Any]:
    os.environ["HF_DATASETS_CACHE"] = str(folder / "datasets")
    shutil.rmtree(folder / "datasets", ignore_errors=True)
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder / family)
    path = folder / f"{text}.txt"
    return timed(path, lambda: len(training.blocks(path, tokenizer, 128, special=family == "bert")))


def timed(path: Path, rows: Any) -> dict[str, Any]:
    """Make rows of a text: seconds, megabytes a second, and rows."""
    start, cpu = time.perf_counter(), time.process_time()
    count = rows()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu,
            "megabytes_per_second": path.stat().st_size / 1e6 / seconds, "rows": count}


def run(full: bool) -> list[pairs.Row]:
    """Stories as BERT and GPT-2 read them, and the Python documentation."""
    found = []
    with pairs.Bench(__name__, megabytes=100 if full else 10) as bench:
        bench.run("prepare")
        for text, family in (("stories", "bert"), ("stories", "gpt2"), ("documentation", "bert")):
            mine, theirs = bench.turns(("ours", "stock"), 3 if full else 1, text=text, family=family)
            size = (bench.folder / f"{text}.txt").stat().st_size / 1e6
            found.append(pairs.row(
                f"preprocessing {size:.0f} MB, {text}, {OBJECTIVES[family]}", "MB a second", "megabytes_per_second",
                mine, theirs, goal=4.0,
                reached=f"rows {pairs.median(mine, 'rows'):,.0f} / {pairs.median(theirs, 'rows'):,.0f}"))
    return found


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock)
