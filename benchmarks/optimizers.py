"""Loss against tokens and against seconds: GPT-2, BERT and T5 from scratch by each optimizer, at fair rates.

    python benchmarks/optimizers.py --folder runs/optimizers --steps 600              # hours on two cores
    python benchmarks/optimizers.py --families t5 --optimizers adamw,adamw_rms --steps 300
    python benchmarks/optimizers.py --size tiny --rows 16 --length 64 --steps 150 --factors 1,3     # 15 minutes on one

Each optimizer has its usual rate times each of `--factors`; the best of them by validation loss is drawn. Rows, masks
and weights are the same for all. Stop it whenever you like: the same command goes on.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FAMILIES = {"gpt2": "causal_lm", "bert": "masked_lm", "t5": "span_corruption"}
STILL = {"gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "t5": ("dropout_rate",),
         "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob")}


def recipe_of(family: str, optimizer: str, factor: float, given: argparse.Namespace) -> Any:
    """A recipe, at its optimizer's usual rate times a factor."""
    from llmkit import recipe
    from llmkit.planning.choices import usual_rate

    steps = given.steps
    tree: dict[str, Any] = {
        "name": f"{family}-{optimizer}",
        "backbone": {"family": family, "size": given.size, "config": dict.fromkeys(STILL[family], 0.0)},
        "tokenizer": {"train": {"vocab_size": 8192}},
        "data": {"train": given.data, "validation": 0.02, "max_length": given.length},
        "objective": {"name": FAMILIES[family]},
        "optimizer": {"name": optimizer},
        "training": {"max_steps": steps, "global_batch_size": given.rows, "warmup_steps": 0.1, "logging_steps": 10,
                     "lr_scheduler_type": "constant_with_warmup" if optimizer == "schedule_free" else "cosine",
                     "save_steps": 100, "save_total_limit": 1, "figures": False}}
    rate = usual_rate(recipe.load(tree)) * factor
    tree["training"]["learning_rate"] = rate
    return recipe.load({**tree, "output_dir": str(given.folder / f"{family}-{optimizer}-{rate:.3g}")})


def measured(asked: Any) -> dict[str, Any]:
    """One run: what it came to, and its curve."""
    from llmkit.training.fit import fit

    summary = fit(asked)
    lines = [json.loads(line) for line in (asked.folder / "metrics.jsonl").read_text().splitlines()]
    curve, seconds, before = [], 0.0, 0
    for line in lines:
        if line["event"] == "train":
            seconds += (line["tokens"] - before) / line["tokens_per_second"]
            before = line["tokens"]
            curve.append((line["tokens"], seconds, line["loss"]))
    return {"learning_rate": asked.training.learning_rate, "loss": summary["evaluation"]["loss"],
            "tokens_per_second": summary["tokens_per_second"], "curve": curve}


def draw(found: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Two pictures a family: the best run of each optimizer against tokens, and against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6 * len(found)), layout="constrained")
    places = figure.subplots(len(found), 2, squeeze=False)
    for row, (family, by) in zip(places, found.items(), strict=True):
        for column, (place, what) in enumerate(zip(row, ("tokens", "seconds"), strict=True)):
            for name, best in by.items():
                place.plot([point[column] for point in best["curve"]], [point[2] for point in best["curve"]],
                           label=f"{name} {best['learning_rate']:.2g}", linewidth=1.2)
            place.set_xlabel(what)
            place.set_ylabel(f"{family}: training loss")
        row[0].legend(fontsize=8)
    figure.savefig(path)


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: the validation loss, the rate and the speed of each optimizer's best run."""
    lines = ["| family | optimizer | rate | validation loss | tokens/s |", "|---|---|---|---|---|"]
    for family, by in found.items():
        best_first = sorted(by.items(), key=lambda one: one[1]["loss"])
        lines += [f"| {family} | {name} | {best['learning_rate']:.3g} | {best['loss']:.3f} | "
                  f"{best['tokens_per_second']:,.0f} |" for name, best in best_first]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    from llmkit.recipe import registry
    from llmkit.system import report

    usual = [name for name in registry.names("optimizers") if name != "adamw_8bit"]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/optimizers"))
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--size", default="mini", help="the families' size of this name")
    options.add_argument("--rows", type=int, default=32, help="rows a step")
    options.add_argument("--length", type=int, default=128, help="tokens a row")
    options.add_argument("--factors", default="0.333,1,3", help="on each optimizer's usual rate")
    options.add_argument("--data", default="builtin:python-docs")
    options.add_argument("--families", default=",".join(FAMILIES))
    options.add_argument("--optimizers", default=",".join(usual))
    given = options.parse_args(words)
    report.to_stderr()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for family in given.families.split(","):
        for name in given.optimizers.split(","):
            runs = [measured(recipe_of(family, name, float(factor), given)) for factor in given.factors.split(",")]
            found.setdefault(family, {})[name] = min(runs, key=lambda run: run["loss"])
            (given.folder / "optimizers.json").write_text(json.dumps(found, indent=1))
            draw(found, given.folder / "optimizers.png")
    print(table(found))


if __name__ == "__main__":
    main()
