"""How the cost of training grows: tokens a second against width, length, vocabulary, batch and processes; a plot.

    python benchmarks/growth.py            # minutes on 2 cores; writes docs/performance.png and prints a table

Masked language modelling with a BERT of 4 layers, one thing changed at a time; every point is a run of `llmkit
pretrain` in a process of its own. Preprocessing is measured on the same text, repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

USUAL = {"width": 256, "length": 128, "vocabulary": 8192, "rows a step": 16, "processes": 1}
AXES: dict[str, list[int]] = {
    "width": [64, 128, 256, 512], "length": [32, 64, 128, 256, 512], "vocabulary": [1024, 8192, 16384, 32768],
    "rows a step": [4, 8, 16, 32, 64], "processes": [1, 2]}
MEGABYTES = [2, 8, 32]


def speed(steps: int, **point: int) -> float:
    """Tokens a second of a run, waiting for data included, imports and the first steps not."""
    at = {**USUAL, **{name.replace("_", " "): value for name, value in point.items()}}
    width, length = at["width"], at["length"]
    with tempfile.TemporaryDirectory() as folder:
        recipe = {
            "name": "growth",
            "backbone": {"family": "bert", "config": {
                "num_hidden_layers": 4, "hidden_size": width, "num_attention_heads": max(1, width // 64),
                "intermediate_size": 4 * width, "max_position_embeddings": max(AXES["length"])}},
            "tokenizer": {"train": {"vocab_size": at["vocabulary"]}},
            "data": {"train": "builtin:python-docs", "max_length": length, "packing": "blocks"},
            "objective": "masked_lm",
            "training": {"max_steps": steps, "global_batch_size": at["rows a step"], "logging_steps": steps // 3,
                         "save_steps": 10**6, "precision": "bf16"},
            "output_dir": f"{folder}/run"}
        Path(folder, "growth.yaml").write_text(json.dumps(recipe))
        words = [sys.executable, "-m", "llmkit", "pretrain", f"{folder}/growth.yaml"]
        if at["processes"] > 1:
            words += ["--processes", str(at["processes"])]
        subprocess.run(words, check=True, capture_output=True)
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    later = [line["tokens_per_second"] for line in lines if line["event"] == "train"][1:]
    return float(sum(later) / len(later))


def preprocessing(megabytes: int) -> float:
    """Megabytes a second from a text file to token ids."""
    code = (
        "import sys, time; from pathlib import Path; from llmkit.data import tokens, tokenizer; "
        "from llmkit.data.sources import open_source; from llmkit.recipe import Source; "
        "text = [text for text, _ in open_source(Source('builtin:python-docs')).documents()]; "
        "words, _ = tokenizer.trained(['growth'], lambda: text, 'wordpiece', 8192, None, None); "
        "path = Path(sys.argv[1]); whole = '\\n\\n'.join(text); size = int(sys.argv[2]) * 10**6; "
        "path.write_text((whole * (1 + size // len(whole)))[:size]); "
        "start = time.perf_counter(); tokens.tokenize(open_source(Source(str(path))), words); "
        "print(time.perf_counter() - start)")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{folder}/text.txt", str(megabytes)], check=True, capture_output=True,
            text=True, env={**os.environ, "LLMKIT_CACHE": f"{folder}/cache"})
    return megabytes / float(done.stdout.split()[-1])


def draw(found: dict[str, dict[int, float]], path: Path) -> None:
    """One panel for each axis; both axes logarithmic, speed from 0 for processes and preprocessing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    for panel, (name, points) in zip(panels.flat, found.items(), strict=True):
        panel.plot(list(points), list(points.values()), marker="o", color="#2a6f97")
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(points), [f"{x:,}" for x in points])
        panel.tick_params(labelsize=8)
        panel.minorticks_off()
        panel.set_ylim(0, 1.15 * max(points.values()))
        panel.set_xlabel(name)
        panel.set_ylabel("MB a second" if name == "megabytes" else "tokens a second")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.25)
    usual = ", ".join(f"{name} {value:,}" for name, value in USUAL.items())
    figure.suptitle(f"BERT of 4 layers, masked language modelling, bf16: {usual} where not said", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--out", type=Path, default=Path("docs/performance.png"))
    given = options.parse_args()
    found: dict[str, dict[int, float]] = {}
    usual: float | None = None
    for name, values in AXES.items():
        for value in values:
            start = time.monotonic()
            known: Any = usual if value == USUAL[name] else None
            one = known or speed(given.steps, **{name: value})
            usual = one if value == USUAL[name] else usual
            found.setdefault(name, {})[value] = one
            print(f"{name} {value}: {one:,.0f} tokens/s ({time.monotonic() - start:.0f} s)", file=sys.stderr)
    found["megabytes"] = {size: preprocessing(size) for size in MEGABYTES}
    draw(found, given.out)
    for name, points in found.items():
        print(f"| {name} | " + " | ".join(f"{x:,}: {y:,.3g}" for x, y in points.items()) + " |")


if __name__ == "__main__":
    main()
