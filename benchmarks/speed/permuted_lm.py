"""Permuted language modelling: XLNet of 4 layers of 256, vocabulary 32,000, rows of 128.

    LLMKIT_DATA=folder python -m benchmarks.speed.permuted_lm

The stock way is transformers' collator and XLNetLMHeadModel: both of its streams, and the logits, at every position.
The collator writes the mask token where a target is; llmkit leaves the token, which later targets see, as the paper
has it. The models are judged by the latter.
"""

from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

SIZE = {"n_layer": 4, "d_model": 256, "n_head": 4, "d_inner": 1024, "vocab_size": 32000}
LENGTH, ROWS = 128, 16
RATE = 5e-4


def recipe(folder: Path, name: str, steps: int, turn: int = 0) -> dict[str, Any]:
    """llmkit's recipe for it."""
    return {
        "name": name, "seed": turn + 1, "backbone": {"pretrained": str(folder / "start")},
        "data": {"train": str(pairs.data("tinystories/train.txt")), "max_length": LENGTH, "packing": "blocks"},
        "objective": "permuted_lm", "output_dir": str(folder / f"{name}-{turn}"),
        "training": {"max_steps": steps, "global_batch_size": ROWS, "learning_rate": RATE}}


def prepare(folder: Path, **_: Any) -> dict[str, Any]:
    """A tokenizer of the text, and the weights that both start from."""
    from transformers import XLNetConfig, XLNetLMHeadModel, set_seed

    training.unigram("xlnet", 8000).save_pretrained(folder / "start")
    set_seed(1)
    model = XLNetLMHeadModel(XLNetConfig(**SIZE))
    model.save_pretrained(folder / "start")
    return {"parameters": model.num_parameters()}


def ours(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    return training.fit(recipe(folder, "ours", steps, turn))


def stock(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    from transformers import AutoTokenizer, DataCollatorForPermutationLanguageModeling, XLNetLMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    data = training.blocks(pairs.data("tinystories/train.txt"), tokenizer, LENGTH, special=False)
    model = XLNetLMHeadModel.from_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / f"stock-{turn}")
    return training.trainer(
        model, data, DataCollatorForPermutationLanguageModeling(tokenizer), folder / f"stock-{turn}",
        tokens=lambda batch: batch["input_ids"].numel(), max_steps=steps, per_device_train_batch_size=ROWS,
        learning_rate=RATE, seed=turn + 1)


def judge(folder: Path, steps: int, held: int, **_: Any) -> dict[str, Any]:
    """Every model's loss on other stories, the same orders for all."""
    asked = recipe(folder, "judge", steps)
    asked["data"]["validation"] = str(training.held_out(folder, held))
    return training.judged(training.saved(folder), asked)


def run(full: bool) -> list[pairs.Row]:
    with pairs.Bench(__name__, steps=300 if full else 40, held=500 if full else 100) as bench:
        bench.run("prepare")
        mine, theirs = bench.turns(("ours", "stock"), 3 if full else 1)
        return [pairs.row(
            "`permuted_lm`, XLNet 4×256", "tokens a second", "tokens_per_second", mine, theirs, goal=2.0,
            reached=pairs.apart("validation loss", bench.run("judge").found))]


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock, judge=judge)
