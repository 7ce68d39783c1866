"""Do phrases in the masks help tagging? The same encoder, the same text and tokens, then the same fine-tuning.

    python benchmarks/phrases_tagging.py --train train.conll --test test.conll --folder runs/phrases     # minutes
    python benchmarks/phrases_tagging.py --train train.conll --test test.conll --folder runs/phrases --table

The text is that of the training rows, and the phrases are the entities that these rows tag: nothing of the test rows is
seen before they are asked about, and a dictionary knows more than a dictionary of somebody else's would. Every run is a
folder: stop it whenever you like, the same command goes on.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "tokens": {}, "whole words": {"whole_word": True}, "whole words and phrases": {"whole_word": True, "phrases": ""},
}
"""What is hidden together."""
SIZE = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512}
SEEDS = (1, 2, 3)


def rows(path: Path) -> Iterator[list[tuple[str, str]]]:
    """The rows of a file with a word and its tag a line, blank lines between: [(word, tag), …]."""
    row: list[tuple[str, str]] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if line.strip():
            word, *_, tag = line.split()
            row.append((word, tag))
        elif row:
            yield row
            row = []


def entities(row: list[tuple[str, str]], between: str) -> Iterator[str]:
    """The entities of a row, of tags in BIO or BMES: 高 B-NAME, 勇 E-NAME -> 高勇."""
    words: list[str] = []
    for word, tag in [*row, ("", "O")]:
        if words and tag[0] not in "IME":
            yield between.join(words)
            words = []
        if tag != "O":
            words.append(word)


def prepared(train: Path, folder: Path) -> tuple[Path, Path]:
    """(text, phrases) of the training rows, as files."""
    text, phrases, between = folder / "text.txt", folder / "phrases.txt", ""
    folder.mkdir(parents=True, exist_ok=True)
    all_rows = list(rows(train))
    if statistics.mean(len(word) for row in all_rows for word, _ in row) > 2:  # no ideographs
        between = " "
    text.write_text("".join(between.join(word for word, _ in row) + "\n" for row in all_rows), encoding="utf-8")
    found = sorted({entity for row in all_rows for entity in entities(row, between) if len(entity) > 1})
    phrases.write_text("".join(f"{entity}\n" for entity in found if not entity.startswith("#")), encoding="utf-8")
    return text, phrases


def pretrained(way: str, train: Path, folder: Path, tokens: int) -> Path:
    """A folder with an encoder that learned the text, by what was hidden together."""
    from llmkit.training.fit import fit

    text, phrases = prepared(train, folder)
    chosen = {"name": "masked_lm", **WAYS[way]}
    if "phrases" in chosen:
        chosen["phrases"] = str(phrases)
    out = folder / way.replace(" ", "-")
    fit({"name": "p", "backbone": {"family": "bert", "config": {**SIZE, "hidden_dropout_prob": 0.0}},
         "tokenizer": {"train": {"vocab_size": 3000}}, "data": {"train": str(text), "max_length": 128},
         "objective": chosen, "output_dir": str(out),
         "training": {"max_tokens": tokens, "global_batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 0.05}})
    return out


def tagged(base: Path | None, seed: int, train: Path, test: Path, folder: Path, steps: int) -> None:
    """Fine-tune an encoder, or one of random weights, on the tags."""
    from llmkit.training.fit import fit

    model: dict[str, Any] = {"backbone": {"pretrained": str(base), "config": {"hidden_dropout_prob": 0.1}}}
    if base is None:
        model = {"backbone": {"family": "bert", "config": SIZE}, "tokenizer": {"pretrained": str(folder / "tokens")}}
    name = "random" if base is None else base.name
    fit({**model, "name": "t", "seed": seed, "task": "tagging",
         "data": {"train": str(train), "validation": [{"source": str(test)}], "max_length": 128},
         "output_dir": str(folder / "tags" / f"{name}-{seed}"),
         "training": {"max_steps": steps, "global_batch_size": 32, "learning_rate": 1e-3 if base is None else 5e-4,
                      "warmup_steps": 0.1, "save_steps": 1000, "metric_for_best_model": None}})


def said(run: Path) -> dict[str, Any]:
    """The summary of a run that is complete; empty of any other."""
    path = run / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return summary if summary.get("status") == "completed" else {}


def table(folder: Path) -> str:
    """What is there, as Markdown."""
    lines = ["| hidden together | masked-LM loss, its own masks | F1 of entities, by seed |", "|---|---|---|"]
    for way in ("random weights", *WAYS):
        name = "random" if way == "random weights" else way.replace(" ", "-")
        runs = [said(folder / "tags" / f"{name}-{seed}") for seed in SEEDS]
        figures = [run["evaluation"]["f1"] for run in runs if run]
        loss = f"{own['train_loss']:.3f}" if (own := said(folder / name)) else ""
        lines.append(f"| {way} | {loss} | {', '.join(f'{one:.3f}' for one in figures)} |")
    return "\n".join(lines)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--train", type=Path, required=True, help="a word and its tag a line")
    asked.add_argument("--test", type=Path, required=True)
    asked.add_argument("--folder", type=Path, required=True, help="where the runs go")
    asked.add_argument("--tokens", type=int, default=300_000, help="what each pretraining sees")
    asked.add_argument("--steps", type=int, default=150, help="of each fine-tuning, of 32 rows")
    asked.add_argument("--table", action="store_true", help="only print what is there")
    given = asked.parse_args()
    if not given.table:
        bases = {way: pretrained(way, given.train, given.folder, given.tokens) for way in WAYS}
        for seed in SEEDS:
            for base in (None, *bases.values()):
                tagged(base, seed, given.train, given.test, given.folder, given.steps)
    print(table(given.folder))


if __name__ == "__main__":
    main()
