"""Causal language modelling: GPT-2 of 4 layers of 256 with its own vocabulary, on stories of uneven length.

    LLMKIT_DATA=folder python -m benchmarks.speed.causal_lm

The stock way is the usual script for documents: each is tokenized and cut at the longest length, and the collator pads
a batch to its longest. Tokens are counted without padding, and a step has as many on both sides, up to 3 %.
"""

from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

SIZE = {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 512}
LENGTH = 512
STORIES, ROWS = 8, 3
"""A step: padded stories of 197 tokens on average (the Trainer's default number), or full rows of LENGTH."""
RATE = 5e-4


def recipe(folder: Path, name: str, steps: int, turn: int = 0) -> dict[str, Any]:
    """llmkit's recipe for it."""
    return training.recipe(
        folder, name, turn, "causal_lm", LENGTH, pairs.data("tinystories/train.txt"), "documents", max_steps=steps,
        global_batch_size=ROWS, learning_rate=RATE)


def prepare(folder: Path, **_: Any) -> dict[str, Any]:
    """The weights that both start from."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, set_seed

    set_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**SIZE))
    model.save_pretrained(folder / "start")
    files = [str(pairs.data(f"tokenizers/gpt2/{name}")) for name in ("vocab.json", "merges.txt")]
    GPT2Tokenizer(*files).save_pretrained(folder / "start")
    return {"parameters": model.num_parameters()}


def ours(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    return training.fit(recipe(folder, "ours", steps, turn), skipped=5)


def stock(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    tokenizer.pad_token = tokenizer.eos_token
    data = Dataset.from_dict({"text": training.stories()}).map(
        lambda some: tokenizer(some["text"], truncation=True, max_length=LENGTH), batched=True,
        remove_columns=["text"], load_from_cache_file=False)
    model = GPT2LMHeadModel.from_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / f"stock-{turn}")
    return training.trainer(
        model, data, DataCollatorForLanguageModeling(tokenizer, mlm=False), folder / f"stock-{turn}", skipped=5,
        max_steps=steps, per_device_train_batch_size=STORIES, learning_rate=RATE, seed=turn + 1)


def judge(folder: Path, steps: int, held: int, **_: Any) -> dict[str, Any]:
    """Every model's loss on other stories, each by itself; that a story ends, the stock script doesn't teach."""
    asked = {**recipe(folder, "judge", steps), "objective": {"name": "causal_lm", "add_eos_token": False}}
    return training.judged(folder, asked, training.held_out(folder, held))


def run(full: bool) -> list[pairs.Row]:
    return training.compared(__name__, "`causal_lm`, GPT-2 4×256", full, 2.5, (30, 200), memory_goal=0.5)


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock, judge=judge)
