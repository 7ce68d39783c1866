"""The same fine-tuning by llmkit and by a plain loop of transformers: MiniLM, all of it, on sst2, in fp32 and bf16.

    LLMKIT_DATA=folder OMP_NUM_THREADS=1 python benchmarks/beside_transformers.py --rows 4000 --seeds 1 2 3
    LLMKIT_DATA=folder OMP_NUM_THREADS=1 python benchmarks/beside_transformers.py --rows 640 --seeds 1 --dropout 0

Both sides have the same rows in the same order and the same random head to start from, batches of 32, at most 64
tokens, AdamW at 5e-5 with a tenth of warm-up, 2 epochs. Of llmkit, the loop has nothing but the order of the rows. What
differs is dropout: each side draws its own. With `--dropout 0` nothing does, and their losses are compared step by
step. A pair of runs that is in the folder isn't run again.
"""

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODEL, BATCH, LENGTH, EPOCHS, RATE, DECAY = "minilm-l6", 32, 64, 2, 5e-5, 0.01
Rows = list[tuple[str, int]]


def read(part: str, count: int | None = None) -> Rows:
    """(sentence, label) of sst2; of a count, so many that a fixed seed draws."""
    import numpy as np

    path = Path(os.environ["LLMKIT_DATA"]) / "sst2" / f"{part}.tsv"
    lines = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [(text, int(label)) for text, label in lines]
    chosen = range(len(rows)) if count is None else np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[i] for i in chosen]


def written(rows: Rows, path: Path) -> str:
    """Rows as a file that a recipe names."""
    path.write_text("".join(json.dumps({"text": text, "label": str(label)}) + "\n" for text, label in rows))
    return str(path)


def start(folder: Path, seed: int, dropout: float) -> Path:
    """A folder of the model with a new head, from which both sides start."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from llmkit.models import resolve

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        resolve(MODEL), num_labels=2, id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1},
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve(MODEL)).save_pretrained(folder)
    return folder


def by_llmkit(base: Path, files: Sequence[str], seed: int, precision: str, warmup: int) -> dict[str, Any]:
    """{"accuracy", "losses": one a step}"""
    from llmkit import recipe
    from llmkit.training.fit import fit

    folder = base.parent / f"llmkit-{precision}-{seed}"
    summary = fit(recipe.load({
        "name": folder.name, "seed": seed, "backbone": {"pretrained": str(base)}, "task": "classification",
        "data": {"train": files[0], "validation": [{"source": files[1]}], "max_length": LENGTH},
        "training": {"num_train_epochs": EPOCHS, "global_batch_size": BATCH, "micro_batch_size": BATCH,
                     "learning_rate": RATE, "weight_decay": DECAY, "warmup_steps": warmup, "precision": precision,
                     "logging_steps": 1, "save_steps": 10_000, "figures": False},
        "output_dir": str(folder)}))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {"accuracy": summary["evaluation"]["accuracy"],
            "losses": [line["loss"] for line in lines if line["event"] == "train"]}


def by_hand(base: Path, learned: Rows, held: Rows, seed: int, precision: str, warmup: int) -> dict[str, Any]:
    """The loop that a reader of transformers' documentation writes."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    from llmkit.data.batches import Order

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32).train()
    order, steps = Order([len(learned)], None, seed), EPOCHS * len(learned) // BATCH
    groups = [{"params": [one for one in model.parameters() if one.dim() > 1], "weight_decay": DECAY},
              {"params": [one for one in model.parameters() if one.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)

    def answers(rows: Rows) -> Any:
        texts = [text for text, _ in rows]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return model(**batch, labels=torch.tensor([label for _, label in rows]))

    losses = []
    for step in range(steps):
        rows = [learned[order.at(step * BATCH + i)[1]] for i in range(BATCH)]
        loss = answers(rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    right = 0
    with torch.no_grad():
        for at in range(0, len(held), 64):
            some = held[at : at + 64]
            right += sum(int(best) == label for best, (_, label) in zip(answers(some).logits.argmax(-1), some))
    return {"accuracy": right / len(held), "losses": losses}


def pair(given: argparse.Namespace, seed: int, precision: str) -> dict[str, Any]:
    """What both sides came to; from the folder where it is there."""
    kept = given.folder / f"{given.rows}-{given.dropout:g}-{precision}-{seed}"
    if not (kept / "pair.json").is_file():
        learned, held = read("train", given.rows), read("dev")
        base = start(kept / "start", seed, given.dropout)
        warmup = max(1, EPOCHS * given.rows // BATCH // 10)
        files = [written(rows, kept / f"{name}.jsonl") for name, rows in (("train", learned), ("dev", held))]
        both = {"llmkit": by_llmkit(base, files, seed, precision, warmup),
                "loop": by_hand(base, learned, held, seed, precision, warmup)}
        (kept / "pair.json").write_text(json.dumps(both))
    found: dict[str, Any] = json.loads((kept / "pair.json").read_text())
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: the mean of the seeds, and how far losses are apart."""
    lines = ["| precision | seeds | llmkit | plain loop | difference of the means | losses apart by at most |",
             "|---|---|---|---|---|---|"]
    for precision, pairs in found.items():
        sides = {name: [one[name]["accuracy"] for one in pairs] for name in ("llmkit", "loop")}
        apart = max(abs(a - b) for one in pairs
                    for a, b in zip(one["llmkit"]["losses"], one["loop"]["losses"], strict=True))
        cells = [f"{statistics.mean(some):.4f} ({min(some):.4f} to {max(some):.4f})" for some in sides.values()]
        difference = statistics.mean(sides["llmkit"]) - statistics.mean(sides["loop"])
        lines.append(f"| {precision} | {len(pairs)} | {' | '.join(cells)} | {difference:+.4f} | {apart:.2g} |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/beside_transformers"))
    options.add_argument("--rows", type=int, default=4000, help=f"to learn from; a multiple of {BATCH}")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    options.add_argument("--dropout", type=float, default=0.1)
    given = options.parse_args()
    if given.rows % BATCH:
        options.error(f"--rows {given.rows}: a multiple of {BATCH}, so that no batch is a part of one")
    from llmkit.system import report

    report.to_stderr()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        for precision in given.precisions:
            found.setdefault(precision, []).append(pair(given, seed, precision))
            print(table(found), flush=True)


if __name__ == "__main__":
    main()
