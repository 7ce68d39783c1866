"""Span corruption: T5 of 4 + 4 layers of 256, vocabulary 32,128, inputs of 256 tokens.

    LLMKIT_DATA=folder python -m benchmarks.speed.span_corruption

transformers has no collator for it. People use that of its former example for Flax, ported to torch: text in blocks
that are longer than the input by what corruption takes away, each corrupted by itself in the collator.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed import pairs, training

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIZE = {"num_layers": 4, "d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 1024, "vocab_size": 32128,
        "decoder_start_token_id": 0}
LENGTH, ROWS = 256, 16
DENSITY, SPAN = 0.15, 3.0
RATE = 1e-3


def recipe(folder: Path, name: str, steps: int, turn: int = 0) -> dict[str, Any]:
    """llmkit's recipe for it."""
    return training.recipe(
        folder, name, turn, "span_corruption", LENGTH, pairs.data("tinystories/train.txt"), "blocks", max_steps=steps,
        global_batch_size=ROWS, learning_rate=RATE)


def prepare(folder: Path, **_: Any) -> dict[str, Any]:
    """A tokenizer of the text, and the weights that both start from."""
    from transformers import T5Config, T5ForConditionalGeneration, set_seed

    training.unigram("t5", 8000).save_pretrained(folder / "start")
    set_seed(1)
    model = T5ForConditionalGeneration(T5Config(**SIZE))
    model.save_pretrained(folder / "start")
    return {"parameters": model.num_parameters()}


def ours(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    return training.fit(recipe(folder, "ours", steps, turn))


def corrupted(length: int) -> tuple[int, int]:
    """(hidden tokens, spans) of a block."""
    hidden = min(max(round(length * DENSITY), 1), length - 1)
    return hidden, max(round(hidden / SPAN), 1)


def block() -> int:
    """How many tokens become an input of LENGTH: what stays, a sentinel a span and the end."""
    length = LENGTH
    while (length + 1) - corrupted(length + 1)[0] + corrupted(length + 1)[1] + 1 <= LENGTH:
        length += 1
    return length


def parts(total: int, count: int, rng: "np.random.Generator") -> "NDArray[np.int64]":
    """A total as a sum of `count` whole numbers above 0, each such sum as likely."""
    import numpy as np

    edges = 1 + np.sort(rng.choice(total - 1, count - 1, replace=False))
    return np.diff(np.concatenate([[0], edges, [total]]))


class Corrupt:
    """The collator: rows of ids to input_ids and labels, all of one length; the model shifts the labels."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        import numpy as np

        self.end, self.rng = tokenizer.eos_token_id, np.random.default_rng(seed)
        self.sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(100)])

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import numpy as np
        import torch

        ids = np.array([row["input_ids"] for row in rows])
        hidden, spans = corrupted(ids.shape[1])
        inputs, labels = [], []
        for row in ids:
            lengths = np.stack([parts(ids.shape[1] - hidden, spans, self.rng), parts(hidden, spans, self.rng)], 1)
            inside = np.repeat(np.tile([False, True], spans), lengths.reshape(-1))
            inputs.append(self.shown(row, inside))
            labels.append(self.shown(row, ~inside))
        return {"input_ids": torch.from_numpy(np.stack(inputs)), "labels": torch.from_numpy(np.stack(labels))}

    def shown(self, row: "NDArray[np.int64]", covered: "NDArray[np.bool_]") -> "NDArray[np.int64]":
        """A row with one sentinel for each covered run, and the end token."""
        import numpy as np

        first = covered & ~np.concatenate([[False], covered[:-1]])
        marked = np.where(first, np.take(self.sentinels, np.maximum(first.cumsum() - 1, 0)), row)
        return np.append(marked[first | ~covered], self.end)


def stock(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    data = training.blocks(pairs.data("tinystories/train.txt"), tokenizer, block())
    model = T5ForConditionalGeneration.from_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / f"stock-{turn}")
    return training.trainer(
        model, data, Corrupt(tokenizer, turn + 1), folder / f"stock-{turn}",
        tokens=lambda batch: batch["input_ids"].numel() + batch["labels"].numel(), max_steps=steps,
        per_device_train_batch_size=ROWS, learning_rate=RATE, seed=turn + 1)


def judge(folder: Path, steps: int, held: int, **_: Any) -> dict[str, Any]:
    """Every model's loss on other stories, the same spans for all."""
    return training.judged(folder, recipe(folder, "judge", steps), training.held_out(folder, held))


def run(full: bool) -> list[pairs.Row]:
    return training.compared(__name__, "`span_corruption`, T5 4×256", full, 2.0)


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock, judge=judge)
