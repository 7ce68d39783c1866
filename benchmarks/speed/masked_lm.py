"""Masked language modelling: BERT with its own vocabulary, rows of 128; 4 layers of 256, then BERT-base's shape.

    LLMKIT_DATA=folder python -m benchmarks.speed.masked_lm
"""

from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

SMALL = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}


def recipe(folder: Path, name: str, steps: int, rows: int, length: int, turn: int = 0) -> dict[str, Any]:
    """llmkit's recipe for it."""
    return training.recipe(
        folder, name, turn, "masked_lm", length, pairs.data("tinystories/train.txt"), "blocks", max_steps=steps,
        global_batch_size=rows, learning_rate=5e-4)


def prepare(folder: Path, size: dict[str, int], **_: Any) -> dict[str, Any]:
    """The weights that both start from."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer, set_seed

    set_seed(1)
    model = BertForMaskedLM(BertConfig(**size))
    model.save_pretrained(folder / "start")
    BertTokenizer(str(pairs.data("tokenizers/bert-base-uncased/vocab.txt"))).save_pretrained(folder / "start")
    return {"parameters": model.num_parameters()}


def ours(folder: Path, steps: int, rows: int, length: int, turn: int, **_: Any) -> dict[str, Any]:
    return training.fit(recipe(folder, "ours", steps, rows, length, turn))


def stock(folder: Path, steps: int, rows: int, length: int, turn: int, **_: Any) -> dict[str, Any]:
    from transformers import AutoTokenizer, BertForMaskedLM, DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    data = training.blocks(pairs.data("tinystories/train.txt"), tokenizer, length)
    tokenizer.save_pretrained(folder / f"stock-{turn}")
    model = BertForMaskedLM.from_pretrained(folder / "start")
    return training.trainer(
        model, data, DataCollatorForLanguageModeling(tokenizer), folder / f"stock-{turn}", max_steps=steps,
        per_device_train_batch_size=rows, learning_rate=5e-4, seed=turn + 1)


def judge(folder: Path, steps: int, rows: int, length: int, **_: Any) -> dict[str, Any]:
    """Every model's loss on other stories."""
    return training.judged(
        folder, recipe(folder, "judge", steps, rows, length), pairs.data("tinystories/validation.txt"))


def run(full: bool) -> list[pairs.Row]:
    """4×256 to a validation loss, and a few steps of BERT-base."""
    with pairs.Bench(__name__, size=SMALL, steps=300 if full else 50, rows=32, length=128) as bench:
        bench.run("prepare")
        mine, theirs = bench.turns(("ours", "stock"), 3 if full else 1)
        small = pairs.row("`masked_lm`, BERT 4×256", "tokens a second", "tokens_per_second", mine, theirs, goal=5.0,
                          memory_goal=0.5, reached=pairs.apart("validation loss", bench.run("judge").found))
    with pairs.Bench(__name__, size=BASE, steps=40 if full else 14, rows=16, length=128) as bench:
        bench.run("prepare")
        mine, theirs = bench.turns(("ours", "stock"), 3 if full else 1)
        base = pairs.row("`masked_lm`, BERT-base", "tokens a second", "tokens_per_second", mine, theirs, goal=3.0)
        products = 100 * pairs.median(mine, "mfu")
    share = pairs.Row("`masked_lm`, BERT-base, bf16", "% of this machine's matrix products (MFU)", products, 55.0,
                      goal=1.0, beside="the goal")
    return [small, base, share]


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock, judge=judge)
