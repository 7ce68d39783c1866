"""Does pretraining on a task's own text help, and by which objective? The same encoder, then the same fine-tuning.

    LLMKIT_DATA=folder python benchmarks/pretraining_helps.py --folder runs/helps --tokens 3000000
    LLMKIT_DATA=folder python benchmarks/pretraining_helps.py --folder runs/helps --table    # what is there so far

English: sst2. Chinese: ChnSentiCorp. The training texts are pretrained on, without their labels (Krishna et al. 2023,
"Downstream datasets make surprisingly good pretraining corpora"); the validation texts are seen by no run but to be
measured. Every run is a folder: stop it whenever you like, the same command goes on. `--tokens` is what a pretraining
sees; several make a curve. `--shots 400` fine-tunes on so many rows a label in the place of all. The first seed is
fine-tuned at each of `--rates`, the others at the rate that was best for it: what one start bears ruins another.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OBJECTIVES: dict[str, dict[str, Any]] = {
    "masked_lm": {"name": "masked_lm", "mlm_probability": 0.3},
    "masked_lm, whole words": {"name": "masked_lm", "mlm_probability": 0.3, "whole_word": True},
    "replaced_token": {"name": "replaced_token", "mlm_probability": 0.3},
    "contrastive": {"name": "contrastive"},
}
LANGUAGES: dict[str, dict[str, Any]] = {
    "English": {"train": "sst2/train.tsv", "validation": "sst2/dev.tsv", "fields": {"text": 0, "label": 1},
                "epochs": 2},
    "Chinese": {"train": "chnsenticorp/train.tsv", "validation": "chnsenticorp/dev.tsv",
                "fields": {"text": "text_a", "label": "label"}, "epochs": 2},
}
ENCODER = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 384,
           "max_position_embeddings": 512, "local_attention": 16, "classifier_pooling": "mean"}
"""ModernBERT: positions are relative, and all layers but the first and the last see 8 tokens to each side."""
EPOCHS_OF_SHOTS = 5
DROPOUT = {"embedding_dropout": 0.1, "mlp_dropout": 0.1, "attention_dropout": 0.1}
"""In every fine-tuning; pretraining has none, but for contrastive, whose two views are two dropouts."""


@dataclass(frozen=True)
class Start:
    """What a fine-tuning begins from: random weights, or a pretraining."""

    objective: str | None = None
    tokens: int = 0

    def __str__(self) -> str:
        return "nothing (random weights)" if self.objective is None else f"{self.objective}, {self.tokens / 1e6:g} M"

    def tuned(self, language: str, shots: int | None) -> str:
        """What the names of its fine-tunings begin with."""
        return self.slug(language) + ("" if shots is None else f"-shots-{shots}")

    def slug(self, language: str) -> str:
        """English, masked_lm of 3 M tokens  ->  english-masked_lm-3000000"""
        words = f"{language}-scratch" if self.objective is None else f"{language}-{self.objective}-{self.tokens}"
        return words.lower().replace(", ", "-").replace(" ", "-")


def source(language: str, part: str, *names: str) -> dict[str, Any]:
    """A file of a set, with the fields that are read of it."""
    about = LANGUAGES[language]
    path = Path(os.environ["LLMKIT_DATA"]) / about[part]
    return {"source": str(path), "fields": {name: about["fields"][name] for name in names}}


def pretraining(language: str, start: Start, folder: Path) -> dict[str, Any]:
    """The recipe of a pretraining: only the objective and the length differ."""
    assert start.objective is not None
    chosen = dict(OBJECTIVES[start.objective])
    if language == "Chinese" and chosen.get("whole_word"):
        chosen["segmenter"] = "jieba"
    dropout = DROPOUT if chosen["name"] == "contrastive" else {}
    return {
        "name": start.slug(language), "backbone": {"family": "modernbert", "config": {**ENCODER, **dropout}},
        "tokenizer": {"train": {"kind": "wordpiece", "vocab_size": 8192}},
        "data": {"train": [source(language, "train", "text")], "max_length": 128, "document": "line",
                 "validation": [source(language, "validation", "text")]},
        "objective": chosen, "optimizer": {"name": "muon"},
        "training": {"max_tokens": start.tokens, "global_batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 0.05,
                     "logging_steps": 50, "save_steps": 500, "save_total_limit": 1, "figures": False},
        "output_dir": str(folder / start.slug(language))}


def finetuning(
    language: str, start: Start, seed: int, rate: float, folder: Path, words: Path, shots: int | None = None,
) -> dict[str, Any]:
    """The recipe of a fine-tuning; `words` is the folder that random weights have their tokenizer from."""
    name = f"{start.tuned(language, shots)}-{seed}-{rate:g}"
    epochs = LANGUAGES[language]["epochs"] if shots is None else EPOCHS_OF_SHOTS
    fresh = {"backbone": {"family": "modernbert", "config": {**ENCODER, **DROPOUT}},
             "tokenizer": {"pretrained": str(words)}}
    begun = {"backbone": {"pretrained": str(folder / start.slug(language)), "config": DROPOUT}}
    return {
        "name": name, "seed": seed, "task": "classification", **(fresh if start.objective is None else begun),
        "data": {"train": [source(language, "train", "text", "label")],
                 "validation": [source(language, "validation", "text", "label")], "max_length": 64,
                 **({} if shots is None else {"shots": shots})},
        "training": {"num_train_epochs": epochs, "global_batch_size": 32, "learning_rate": rate,
                     "warmup_steps": 0.1, "logging_steps": 50, "save_steps": 1000, "figures": False},
        "output_dir": str(folder / "fine" / name)}


def ended(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that is complete; None of any other."""
    path = folder / "summary.json"
    summary: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return summary if summary is not None and summary["status"] == "completed" else None


def accuracies(folder: Path, language: str, start: Start, shots: int | None) -> dict[float, dict[int, float]]:
    """By rate and seed, what the finished fine-tunings of a start reached."""
    found: dict[float, dict[int, float]] = {}
    name = start.tuned(language, shots)
    for path in (folder / "fine").glob(f"{name}-[0-9]*"):
        seed, rate = path.name.removeprefix(f"{name}-").split("-", 1)
        if (summary := ended(path)) is not None:
            found.setdefault(float(rate), {})[int(seed)] = summary["evaluation"]["accuracy"]
    return found


def losses(folder: Path, language: str, start: Start) -> str:
    """What a pretraining's model loses on the validation texts, head by head."""
    summary = ended(folder / start.slug(language))
    if summary is None:
        return ""
    found = summary["evaluation"]
    heads = [name for name in ("generator", "discriminator") if name in found]
    return ", ".join(f"{name} {found[name]:.3g}" for name in heads) or f"{found['loss']:.3g}"


def best_rate(found: dict[float, dict[int, float]], first: int) -> float:
    """The rate at which the first seed did best; of equals, the lowest."""
    return max(sorted(found), key=lambda rate: found[rate].get(first, 0.0))


def cell(found: dict[float, dict[int, float]], first: int) -> str:
    """0.881 (0.878 to 0.884; 3 at 0.0003); 0.871 at 0.001: the seeds at the best rate, the first one at others."""
    if not found:
        return ""
    rate = best_rate(found, first)
    of_all = found[rate].values()
    others = "".join(f"; {seeds[first]:.3f} at {at:g}" for at, seeds in sorted(found.items())
                     if at != rate and first in seeds)
    return (f"{statistics.mean(of_all):.3f} ({min(of_all):.3f} to {max(of_all):.3f}; {len(of_all)} at {rate:g})"
            f"{others}")


def floor(folder: Path, language: str, shots: int | None) -> str:
    """What words and logistic regression reach on the same rows, which each fine-tuning says: mean (lowest to highest).

    Rows depend on the seed where there are few a label.
    """
    by_seed, name = {}, Start().tuned(language, shots)
    for path in (folder / "fine").glob(f"{name}-[0-9]*"):
        if (summary := ended(path)) is not None:
            seed = path.name.removeprefix(f"{name}-").split("-", 1)[0]
            by_seed[seed] = summary["floors"]["TF-IDF, logistic regression"]["accuracy"]
    found = by_seed.values()
    return f"{statistics.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})" if found else ""


def table(
    folder: Path, starts: Sequence[Start], first: int, shots: int | None = None,
    languages: Sequence[str] = tuple(LANGUAGES),
) -> str:
    """A Markdown table of what is there."""
    lines = [f"| pretrained by | {' | '.join(f'{name}: its loss | accuracy' for name in languages)} |",
             f"|---|{'---|---|' * len(languages)}"]
    for start in starts:
        cells = [one for language in languages for one in (
            losses(folder, language, start), cell(accuracies(folder, language, start, shots), first))]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    floors = [one for language in languages for one in ("", floor(folder, language, shots))]
    return "\n".join([*lines, f"| floor: TF-IDF, logistic regression | {' | '.join(floors)} |"])


def runs(given: argparse.Namespace, starts: Sequence[Start]) -> Iterator[dict[str, Any]]:
    """The recipes, one after the other: a seed's rate follows from the runs before it."""
    for language in given.languages:
        for start in starts:
            if start.objective is not None:
                yield pretraining(language, start, given.folder)
        words = given.folder / starts[-1].slug(language)
        first = given.seeds[0]
        for seed in given.seeds:
            for start in starts:
                rates = given.rates if seed == first else [
                    best_rate(accuracies(given.folder, language, start, given.shots), first)]
                for rate in rates:
                    yield finetuning(language, start, seed, rate, given.folder, words, given.shots)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/pretraining_helps"))
    options.add_argument("--tokens", type=int, nargs="+", default=[3_000_000])
    options.add_argument("--shots", type=int, help="fine-tune on so many rows a label")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    options.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=list(LANGUAGES))
    options.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    options.add_argument("--table", action="store_true", help="print what is there and end")
    given = options.parse_args()
    starts = [Start(), *(Start(name, tokens) for name in given.objectives for tokens in given.tokens)]
    if not given.table:
        from llmkit import recipe
        from llmkit.system import report
        from llmkit.training.fit import fit

        report.to_stderr()
        for tree in runs(given, starts):
            if ended(Path(tree["output_dir"])) is None:
                fit(recipe.load(tree))
    print(table(given.folder, starts, given.seeds[0], given.shots, given.languages))


if __name__ == "__main__":
    main()
