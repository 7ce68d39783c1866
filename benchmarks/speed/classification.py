"""Classification of short texts of uneven length: MiniLM on SST-2, tuned whole, by LoRA and by a prefix.

The stock way is transformers' run_glue.py with its defaults, which pads every text to 128 tokens, and peft in the
Trainer; beside it, the kinder one, which pads to the longest text of a batch (--pad_to_max_length False).

    LLMKIT_DATA=folder python -m benchmarks.speed.classification
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

LENGTH = 128
RATES = {"full": 5e-5, "lora": 1e-3, "prefix": 1e-2}
"""Learning rates; the new head has the same one."""
TUNING: dict[str, dict[str, Any]] = {
    "full": {"method": "full"}, "lora": {"method": "lora", "r": 8, "lora_alpha": 16},
    "prefix": {"method": "prefix", "num_virtual_tokens": 20}}


def ours(folder: Path, method: str, steps: int, rows: int, turn: int) -> dict[str, Any]:
    """llmkit, with what its recipes say where nothing is said."""
    source: dict[str, Any] = {"fields": {"text": 0, "label": 1}}
    place = folder / f"ours-{method}-{turn}"
    found = training.fit({
        "name": "ours", "seed": turn + 1, "backbone": {"pretrained": "minilm-l6"}, "task": "classification",
        "data": {"train": {"source": str(pairs.data("sst2/train.tsv")), **source},
                 "validation": [{"source": str(pairs.data("sst2/dev.tsv")), **source}]},
        "tuning": TUNING[method], "output_dir": str(place),
        "training": {"max_steps": steps, "global_batch_size": rows, "learning_rate": RATES[method],
                     "head_learning_rate": RATES[method]}})
    return {**found, "accuracy": found["evaluation"]["accuracy"]}


def stock(folder: Path, method: str, steps: int, rows: int, turn: int, pad: bool = True) -> dict[str, Any]:
    """run_glue.py's own lines, with its defaults where `pad`; peft around the model for lora and prefix."""
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        default_data_collator,
        set_seed,
    )

    from llmkit import models

    set_seed(turn + 1)
    start = models.resolve("minilm-l6")
    tokenizer = AutoTokenizer.from_pretrained(start)
    files = {part: str(pairs.data(f"sst2/{part}.tsv")) for part in ("train", "dev")}
    data = load_dataset("csv", data_files=files, sep="\t", names=["sentence", "label"], quoting=3)

    def preprocess(some: Any) -> Any:
        return tokenizer(some["sentence"], padding="max_length" if pad else False, max_length=LENGTH, truncation=True)

    data = data.map(preprocess, batched=True, load_from_cache_file=False)
    model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=2)
    if method != "full":
        model = wrapped(model, method)
    return training.trainer(
        model, data["train"], default_data_collator if pad else DataCollatorWithPadding(tokenizer),
        folder / f"stock-{method}-{turn}", held=data["dev"], metrics=accuracy, max_steps=steps,
        per_device_train_batch_size=rows, learning_rate=RATES[method], seed=turn + 1)


def kinder(folder: Path, **options: Any) -> dict[str, Any]:
    """The same with batches padded to their longest text."""
    return stock(folder, **options, pad=False)


def wrapped(model: Any, method: str) -> Any:
    """The model in peft."""
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model

    options = {name: value for name, value in TUNING[method].items() if name != "method"}
    config = {"lora": LoraConfig, "prefix": PrefixTuningConfig}[method]
    return get_peft_model(model, config(task_type="SEQ_CLS", **options))


def accuracy(said: Any) -> dict[str, float]:
    return {"accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean())}


def run(full: bool) -> list[pairs.Row]:
    """Each way of tuning, by turns with the stock way and the kinder one."""
    found = []
    with pairs.Bench(__name__, steps=432 if full else 50, rows=32) as bench:
        for method in TUNING:
            sides = bench.turns(("ours", "stock", "kinder"), 3 if full else 1, method=method)
            work = "`classification`, MiniLM, SST-2" + ("" if method == "full" else f", {method}")
            for name, theirs in zip(("stock", "kinder"), sides[1:], strict=True):
                reached = {f"{side}-{turn}": one.found["accuracy"] for side, runs in (("ours", sides[0]),
                           ("stock", theirs)) for turn, one in enumerate(runs)}
                row = pairs.row(work, "tokens a second", "tokens_per_second", sides[0], theirs, goal=3.0,
                                reached=pairs.apart("dev accuracy", reached))
                found.append(row if name == "stock" else replace(
                    row, goal=None, beside="the stock way, padded to the longest of a batch"))
    return found


if __name__ == "__main__":
    pairs.main(run, ours=ours, stock=stock, kinder=kinder)
