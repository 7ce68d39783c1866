"""What `head` could reach: logistic regression on vectors of the frozen model, from the rows that `head` learns from.

    OMP_NUM_THREADS=1 python benchmarks/head_probe.py --seeds 42 43 44

The recipe is `classification`: 16 docstrings a label, cut to 48 tokens, and 1,000 others to be measured on. The vectors
are the mean of the last hidden states, or the one of [CLS], which is what a new pooler and head read.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np


def vectors(model: Any, features: Sequence[Any], batch: int = 32) -> dict[str, np.ndarray[Any, Any]]:
    """{"mean": (rows, width), "[CLS]": (rows, width)} of the last hidden states."""
    import torch

    found: dict[str, list[Any]] = {"mean": [], "[CLS]": []}
    for start in range(0, len(features), batch):
        some = [torch.as_tensor(one["input_ids"].astype(np.int64)) for one in features[start : start + batch]]
        ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in some], batch_first=True)
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        found["mean"].append((states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))
        found["[CLS]"].append(states[:, 0])
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def accuracies(seed: int) -> dict[str, float]:
    """What logistic regression reaches on each kind of vector."""
    from sklearn.linear_model import LogisticRegression

    from llmkit import recipe
    from llmkit.models import open_model, resolve
    from llmkit.planning.settle import settle
    from llmkit.training.prepare import rows

    settled = settle(recipe.load("classification", [f"seed={seed}", "tuning={method: head}"]))
    _, sets = rows(settled)
    model = open_model(resolve("minilm-l6"), "AutoModel").model
    learned, held = (sets.train[0], sets.validation[0])
    sides = [vectors(model, side.features) for side in (learned, held)]  # type: ignore[attr-defined]
    labels = [[int(one["labels"][0]) for one in side.features] for side in (learned, held)]  # type: ignore[attr-defined]
    return {name: float(LogisticRegression(max_iter=2000, C=10).fit(sides[0][name], labels[0]).score(
        sides[1][name], labels[1])) for name in sides[0]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    given = options.parse_args()
    found = [accuracies(seed) for seed in given.seeds]
    print("| logistic regression on | accuracy, mean (lowest to highest) |\n|---|---|")
    for name in found[0]:
        some = [one[name] for one in found]
        print(f"| {name} | {statistics.mean(some):.3f} ({min(some):.3f} to {max(some):.3f}) |")


if __name__ == "__main__":
    main()
