"""Does a text GAN help? The same warm-up by likelihood, then as many steps of likelihood or against a discriminator.

    LLMKIT_DATA=folder python benchmarks/adversarial.py --folder runs/gan        # ten minutes or so on 2 cores

A GPT-2 of 4 layers, 128 wide, on TinyStories. The run by likelihood is the same recipe with a longer warm-up, so both
have seen the same rows up to the end of the shorter one. A finished run isn't made again.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

WARM, ALONE, AGAINST = 600, 100, 100
"""Steps of likelihood, then of the discriminator alone, then of the generator (one of the other beside each)."""
FIGURES = ("perplexity", "bleu", "bleu_backward", "bleu_ha", "self_bleu", "distinct_2")


def recipe_of(folder: Path, adversarial: bool, rate: float) -> dict[str, Any]:
    data = Path(os.environ["LLMKIT_DATA"]) / "tinystories"
    steps = WARM + ALONE + 2 * AGAINST if adversarial else WARM + AGAINST
    return {
        "name": "adversarial" if adversarial else "likelihood",
        "backbone": {"family": "gpt2", "config": {
            "n_layer": 4, "n_embd": 128, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
            "attn_pdrop": 0.0}},
        "tokenizer": {"train": {"vocab_size": 2048}},
        "data": {"train": str(data / "train.txt"), "validation": [{"source": str(data / "validation.txt")}],
                 "max_length": 64, "packing": "none"},
        "objective": {"name": "adversarial", "warmup": WARM if adversarial else steps, "discriminator_warmup": ALONE,
                      "sample_length": 20, "samples": 256, "adversarial_rate": rate},
        "training": {"max_steps": steps, "global_batch_size": 32, "learning_rate": 1e-3, "eval_steps": WARM,
                     "lr_scheduler_type": "constant", "logging_steps": 50},
        "output_dir": str(folder / ("adversarial" if adversarial else "likelihood"))}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/adversarial"))
    options.add_argument("--rate", type=float, default=0.03, help="adversarial_rate")
    given = options.parse_args()
    from llmkit import recipe
    from llmkit.training.fit import fit

    lines = [f"| | {' | '.join(f'`{name}`' for name in FIGURES)} |", f"|---|{'---|' * len(FIGURES)}"]
    for adversarial in (False, True):
        tree = recipe_of(given.folder, adversarial, given.rate)
        fit(recipe.load(tree))
        events = [json.loads(line) for line in (Path(tree["output_dir"]) / "metrics.jsonl").read_text().splitlines()]
        found = {event["step"]: event for event in events if event["event"] == "evaluate"}
        if adversarial:
            lines.append(row(f"after {WARM} steps of likelihood", found[WARM]))
        lines.append(row("adversarial" if adversarial else f"likelihood, {AGAINST} steps more", found[max(found)]))
    print("\n".join([*lines[:2], lines[3], lines[2], lines[4]]))
    print(f"real text: distinct_2 {found[WARM]['real_distinct_2']:.3f}")


def row(name: str, found: dict[str, float]) -> str:
    return f"| {name} | {' | '.join(f'{found[figure]:.3g}' for figure in FIGURES)} |"


if __name__ == "__main__":
    main()
