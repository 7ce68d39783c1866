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
    return training.recipe(
        folder, name, turn, "permuted_lm", LENGTH, pairs.data("tinystories/train.txt"), "blocks", max_steps=steps,
        global_batch_size=ROWS, learning_rate=RATE)


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
    return training.judged(folder, recipe(folder, "judge", steps), training.held_out(folder, held))


def run(full: bool) -> list[pairs.Row]:
    return training.compared(__name__, "`permuted_lm`, XLNet 4×256", full, 2.0)


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock, judge=judge)
