"""Training on text by llmkit and by the stock way: what the modules for objectives share."""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import llmkit
from benchmarks.speed import pairs

SKIPPED = 10
"""Steps that aren't timed: caches fill, allocators settle."""


def fit(recipe: dict[str, Any], skipped: int = SKIPPED) -> dict[str, Any]:
    """Train by a recipe; the same figures as `trainer` gives, and the share of the machine's matrix products (MFU)."""
    from llmkit import recipe as recipes
    from llmkit.backbones.kernels import flops
    from llmkit.training.step import Stepper

    operations: list[int] = []
    step = Stepper.step

    def counted(stepper: Stepper, batches: Any) -> None:
        if operations:
            return step(stepper, batches)
        operations.append(flops.counted(lambda: step(stepper, batches)))
        return None

    Stepper.step = counted  # type: ignore[method-assign]
    plan = {"logging_steps": skipped, "save_steps": 10**6, **recipe["training"]}
    summary = llmkit.fit(recipes.load({**recipe, "training": plan}))
    lines = [json.loads(line) for line in (Path(recipe["output_dir"]) / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["event"] == "train"]
    tokens = [after["tokens"] - before["tokens"] for before, after in itertools.pairwise(lines)]
    seconds = sum(some / line["tokens_per_second"] for some, line in zip(tokens, lines[1:], strict=True))
    each = seconds / (lines[-1]["step"] - skipped)
    return {"tokens_per_second": sum(tokens) / seconds, "step_seconds": each,
            "mfu": flops.mfu(operations[0], each, summary["precision"]), "loss": lines[-1]["loss"],
            "curve": [[line["step"], line["loss"]] for line in lines], "precision": summary["precision"],
            "evaluation": summary["evaluation"]}


def trainer(
    model: Any, rows: Any, collator: Any, folder: Path, tokens: Any = None, skipped: int = SKIPPED, held: Any = None,
    metrics: Any = None, **plan: Any,
) -> dict[str, Any]:
    """Train by transformers' Trainer with its defaults, but for `plan`; save the model.

    `tokens` says how many tokens a batch holds that aren't padding; by default, those that the attention mask lets in.
    Where rows are `held` out, the `metrics` of their predictions are among what is found.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ends: list[tuple[int, float, float]] = []
    seen = [0.0]

    def collate(some: Any) -> Any:
        batch = collator(some)
        seen[0] += float(batch["attention_mask"].sum() if tokens is None else tokens(batch))
        return batch

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ends.append((state.global_step, time.perf_counter(), seen[0]))

    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"), logging_steps=skipped, save_strategy="no", report_to=[],
        disable_tqdm=True, **plan)
    made = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Clock()],
                   compute_metrics=metrics)
    made.train()
    model.save_pretrained(folder)
    figures = made.evaluate(held) if held is not None else {}
    (first, began, before), (last, ended, after) = ends[skipped - 1], ends[-1]
    curve = [[entry["step"], entry["loss"]] for entry in made.state.log_history if "loss" in entry]
    return {"tokens_per_second": (after - before) / (ended - began), "step_seconds": (ended - began) / (last - first),
            "loss": curve[-1][1], "curve": curve,
            **{name.removeprefix("eval_"): value for name, value in figures.items() if name != "eval_loss"}}


def blocks(path: Path, tokenizer: Any, length: int, special: bool = True) -> Any:
    """Text to rows of `length` tokens, by `map` and `group_texts` of transformers' own examples (run_mlm, run_clm)."""
    from datasets import load_dataset

    text = load_dataset("text", data_files=str(path), split="train")
    tokenized = text.map(
        lambda some: tokenizer(some["text"], return_special_tokens_mask=special), batched=True,
        remove_columns=["text"], load_from_cache_file=False)

    def group_texts(examples: Any) -> Any:
        joined = {name: [token for part in examples[name] for token in part] for name in examples}
        total = len(joined["input_ids"]) // length * length
        return {name: [ids[i : i + length] for i in range(0, total, length)] for name, ids in joined.items()}

    return tokenized.map(group_texts, batched=True, load_from_cache_file=False)


def stories(name: str = "train") -> list[str]:
    """The stories of a file of tinystories: `train` has a line between two of them, `validation` one a line."""
    text = pairs.data(f"tinystories/{name}.txt").read_text(encoding="utf-8")
    parts = (part.strip() for part in text.split("<|endoftext|>" if name == "train" else "\n"))
    return [part for part in parts if part]


def unigram(special: str, size: int) -> Any:
    """A tokenizer of pieces, trained on the stories, with the special tokens of a family (t5, xlnet)."""
    from llmkit.data import tokenizer

    return tokenizer.train(stories(), "unigram", size, special=special)


def held_out(folder: Path, count: int) -> Path:
    """The first stories that nobody trains on, in a file in `folder`: as many as a benchmark has time for."""
    path = folder / "held.txt"
    path.write_text("\n".join(stories("validation")[:count]) + "\n", encoding="utf-8")
    return path


def recipe(
    folder: Path, name: str, turn: int, objective: Any, length: int, text: Path, packing: str = "auto", **plan: Any,
) -> dict[str, Any]:
    """llmkit's recipe for a turn, from the weights in start/; `plan` is its training."""
    return {
        "name": name, "seed": turn + 1, "backbone": {"pretrained": str(folder / "start")},
        "data": {"train": str(text), "max_length": length, "packing": packing},
        "objective": objective, "output_dir": str(folder / f"{name}-{turn}"), "training": plan}


def compared(
    module: str, work: str, full: bool, goal: float, steps: tuple[int, int] = (40, 300), **more: Any,
) -> list[pairs.Row]:
    """The row of an objective: tokens a second by turns, and the loss that both reached on stories held out.

    `steps` are of the reduced and of the full size.
    """
    with pairs.Bench(module, steps=steps[full], held=500 if full else 100) as bench:
        bench.run("prepare")
        mine, theirs = bench.turns(("ours", "stock"), 3 if full else 1)
        return [pairs.row(work, "tokens a second", "tokens_per_second", mine, theirs, goal=goal, **more,
                          reached=pairs.apart("validation loss", bench.run("judge").found))]


def saved(folder: Path) -> dict[str, Path]:
    """The model of every turn, by the turn's name: `ours-0`, `stock-0` …"""
    return {path.name: path / "model" if path.name.startswith("ours") else path
            for path in sorted(folder.iterdir()) if path.name.startswith(("ours-", "stock-"))}


def judged(folder: Path, recipe: dict[str, Any], held: Path) -> dict[str, Any]:
    """The loss of every turn's model on a text that nobody trained on, the same masks for all."""
    from llmkit import recipe as recipes
    from llmkit.training.fit import fit

    return {name: fit(recipes.load({
        **recipe, "backbone": {"pretrained": str(model)}, "output_dir": str(folder / f"judged-{name}"),
        "data": {**recipe["data"], "validation": str(held)},
        "training": {**recipe["training"], "max_steps": 1, "learning_rate": 0.0}}))["evaluation"]["loss"]
        for name, model in saved(folder).items()}
