"""A program that draws the same batches in its own process and in a loader's worker, by the start methods it is told.

It prints, for each method, {"same": [names], "different": [names], "imported": [heavy libraries that the worker has],
"losses": …}: {"spawn": …, "forkserver": …}. One process for all methods: its imports take longer than the rest.
"""

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

from llmkit.data.batches import load

HEAVY = ("accelerate", "datasets", "peft", "sklearn", "llmkit.planning", "llmkit.inference", "llmkit.cli")
"""What takes time to import, and no worker needs."""


class Every:
    """Rows of several recipes in one loader: a worker takes seconds to start. Keys are (name, pass, row)."""

    def __init__(self, drawn: dict[str, Any]) -> None:
        self.drawn = drawn

    def __getitem__(self, key: tuple[str, int, int]) -> Any:
        name, nth, row = key
        return name, ([there for there in HEAVY if there in sys.modules] if name == "modules"
                      else self.drawn[name][nth, row])


class Collate:
    """Rows to a batch, as the objective or task of their recipe does it."""

    def __init__(self, collators: dict[str, Any]) -> None:
        self.collators = collators

    def __call__(self, rows: list[tuple[str, Any]]) -> Any:
        name = rows[0][0]
        return name, rows[0][1] if name == "modules" else self.collators[name]([row for _, row in rows])


def recipe_of(name: str, folder: Path, workers: int = 0) -> dict[str, Any]:
    family, learning, packing = name.split()
    kind = "task" if learning in ("classification", "tagging") else "objective"
    shape = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16} \
        if family == "bert" else {"n_embd": 16, "n_head": 2, "n_layer": 1}
    return {
        "backbone": {"family": family, "size": "tiny", "config": shape},
        "tokenizer": {"train": {"vocab_size": 300}},
        "data": {"train": str(folder / ("rows.jsonl" if kind == "task" else "text.txt")), "max_length": 32,
                 "packing": packing},
        kind: {"name": learning},
        "training": {"figures": False, "max_steps": 2, "global_batch_size": 4, "logging_steps": 1, "precision": "fp32",
                     "dataloader_num_workers": workers},
        "output_dir": str(folder / "run")}


def prepared(name: str, folder: Path) -> tuple[Any, Any]:
    """(rows, collator) of a recipe."""
    from llmkit import recipe as recipes
    from llmkit.data.batches import Drawn
    from llmkit.objectives.base import Setup
    from llmkit.planning.settle import settle
    from llmkit.planning.vocabulary import speak
    from llmkit.training.learner import Collator

    settled = settle(recipes.load(recipe_of(name, folder)))
    tokenizer, recipe = speak(settled), settled.recipe
    setup = Setup(tokenizer, settled.family, 32, recipe.data.packing, recipe.seed)
    sets = recipe.learning.prepare(settled.train, None, setup)
    return Drawn(sets.train, recipe.seed), Collator(recipe.learning, tokenizer)


def helped(method: str, alone: list[Any], pairs: dict[str, tuple[Any, Any]], keys: list[Any], folder: Path) -> Any:
    """What a worker that is started by a method draws and has, beside what was drawn without one."""
    import torch

    multiprocessing.set_start_method(method, force=True)
    *drawn, (_, modules) = batches(pairs, keys, 1)
    same = dict.fromkeys(pairs, True)
    for (name, one), (_, other) in zip(alone[:-1], drawn, strict=True):
        same[name] = same[name] and one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    return {"same": [name for name in pairs if same[name]], "different": [name for name in pairs if not same[name]],
            "imported": modules, "losses": losses(next(iter(pairs)), folder / method, 1)}


def batches(pairs: dict[str, tuple[Any, Any]], keys: list[Any], workers: int) -> list[Any]:
    every, collate = (({name: pair[i] for name, pair in pairs.items()}) for i in (0, 1))
    return list(load(Every(every), keys, Collate(collate), workers))


def losses(name: str, folder: Path, workers: int) -> list[float]:
    """What a run with workers logs."""
    from llmkit.training.fit import fit

    fit({**recipe_of(name, folder.parent, workers), "output_dir": str(folder)})
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main(methods: str, folder: Path, names: list[str]) -> None:
    pairs = {name: prepared(name, folder) for name in names}
    keys = [[(name, nth, row) for row in range(3)] for name in names for nth in (0, 1)] + [[("modules", 0, 0)]]
    alone, expected = batches(pairs, keys, 0), losses(names[0], folder / "alone", 0)
    told = {method: helped(method, alone, pairs, keys, folder) for method in methods.split()}
    print(json.dumps({"expected": expected, **told}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
