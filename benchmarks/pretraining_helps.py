"""Does pretraining help, and which objective most? The same encoder, the same tokens, then the same fine-tuning.

    LLMKIT_DATA=folder python benchmarks/pretraining_helps.py --folder runs/helps            # hours on 2 cores
    LLMKIT_DATA=folder python benchmarks/pretraining_helps.py --folder runs/helps --table    # what is there so far

English: TinyStories, then sst2. Chinese: CLUECorpusSmall, then ChnSentiCorp. Every run is a folder: stop it whenever
you like, the same command goes on. `--tokens` is what each pretraining sees. The first seed is fine-tuned at each of
`--rates`, the others at the rate that was best for it: what one start bears ruins another.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

OBJECTIVES: dict[str, dict[str, Any]] = {
    "masked_lm": {"name": "masked_lm"},
    "masked_lm, whole words": {"name": "masked_lm", "whole_word": True},
    "next_sentence": {"name": "next_sentence"},
    "sentence_order": {"name": "sentence_order"},
    "masked_lm_next_sentence": {"name": "masked_lm_next_sentence"},
    "replaced_token": {"name": "replaced_token"},
    "contrastive": {"name": "contrastive"},
}
LANGUAGES: dict[str, dict[str, Any]] = {
    "English": {"corpus": "tinystories/train.txt", "train": "sst2/train.tsv", "validation": "sst2/dev.tsv",
                "fields": {"text": 0, "label": 1}, "length": 64},
    "Chinese": {"corpus": "cluecorpus_small/{bert}", "train": "chnsenticorp/train.tsv",
                "validation": "chnsenticorp/dev.tsv", "fields": {"text": "text_a", "label": "label"}, "length": 64},
}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
SIZE = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}


def pretraining(language: str, objective: str, folder: Path, tokens: int, size: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a pretraining: only the objective differs."""
    chosen = dict(OBJECTIVES[objective])
    if language == "Chinese" and chosen.get("whole_word"):
        chosen["segmenter"] = "jieba"
    still = chosen["name"] != "contrastive"  # whose two views are two dropouts
    dropout = dict.fromkeys(DROPOUT, 0.0) if still else {}
    return {
        "name": slug(language, objective), "backbone": {"family": "bert", "config": {**size, **dropout}},
        "tokenizer": {"train": {"vocab_size": 8192}},
        "data": {"train": str(corpus(language)), "max_length": 128},
        "objective": chosen,
        "training": {"max_tokens": tokens, "global_batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 0.05,
                     "logging_steps": 50, "save_steps": 200},
        "output_dir": str(folder / slug(language, objective))}


def finetuning(
    language: str, base: str | None, seed: int, rate: float, folder: Path, size: dict[str, Any]
) -> dict[str, Any]:
    """The recipe of a fine-tuning from a pretraining's folder, or from random weights."""
    about, name = LANGUAGES[language], f"{slug(language, base or 'scratch')}-{seed}-{rate:g}"
    first = folder / slug(language, "masked_lm")
    # the same dropout for all: most of the pretrainings had none, and their configs say so
    model = {"pretrained": str(folder / slug(language, base)), "config": DROPOUT} if base else {
        "family": "bert", "config": {**size, **DROPOUT}}
    source = [{"source": str(root() / about[part]), "fields": about["fields"]} for part in ("train", "validation")]
    return {
        "name": name, "seed": seed, "backbone": model, "task": "classification",
        **({} if base else {"tokenizer": {"pretrained": str(first)}}),
        "data": {"train": source[:1], "validation": source[1:], "max_length": about["length"]},
        "training": {"max_steps": 432, "global_batch_size": 32, "learning_rate": rate, "warmup_steps": 0.1,
                     "logging_steps": 50, "save_steps": 1000},
        "output_dir": str(folder / "fine" / name)}


def root() -> Path:
    return Path(os.environ["LLMKIT_DATA"])


def corpus(language: str) -> Path:
    """The file that is pretrained on; CLUECorpusSmall's is the one with a sentence a line."""
    path = root() / LANGUAGES[language]["corpus"]
    return path if path.suffix == ".txt" else next(path.parent.glob("*bert*"))


def slug(language: str, what: str) -> str:
    return f"{language}-{what}".lower().replace(", ", "-").replace(" ", "-")


def accuracies(folder: Path, language: str, base: str | None) -> dict[float, dict[int, float]]:
    """By rate and seed, what the finished fine-tunings of a start reached."""
    found: dict[float, dict[int, float]] = {}
    start = slug(language, base or "scratch")
    for path in (folder / "fine").glob(f"{start}-[0-9]*/summary.json"):
        seed, rate = path.parent.name.removeprefix(f"{start}-").split("-", 1)
        done = json.loads(path.read_text())
        if done["status"] == "completed":
            found.setdefault(float(rate), {})[int(seed)] = done["evaluation"]["accuracy"]
    return found


def losses(folder: Path, language: str, base: str) -> str:
    """What a pretraining's last steps lost in the mean, head by head."""
    metrics = folder / slug(language, base) / "metrics.jsonl"
    if not metrics.exists():
        return ""
    *_, last = (event for event in map(json.loads, metrics.read_text().splitlines()) if event["event"] == "train")
    heads = [name for name in ("masked_lm", "next_sentence", "generator", "discriminator") if name in last]
    return ", ".join(f"{name} {last[name]:.3g}" for name in heads) or f"{last['loss']:.3g}"


def best_rate(found: dict[float, dict[int, float]], first: int) -> float:
    """The rate at which the first seed did best; of equals, the lowest."""
    return max(sorted(found), key=lambda rate: found[rate].get(first, 0.0))


def table(folder: Path, first: int) -> str:
    """A Markdown table of what is there: accuracies' mean, lowest and highest of the seeds at the best rate."""
    lines = [f"| pretrained by | {' | '.join(f'{name}: its loss | accuracy' for name in LANGUAGES)} |",
             f"|---|{'---|---|' * len(LANGUAGES)}"]
    for base in (None, *OBJECTIVES):
        cells = []
        for language in LANGUAGES:
            found = accuracies(folder, language, base)
            cells.append(losses(folder, language, base) if base else "")
            if not found:
                cells.append("")
                continue
            rate = best_rate(found, first)
            some = found[rate].values()
            others = ", ".join(f"{one[first]:.3f} at {at:g}" for at, one in sorted(found.items())
                               if at != rate and first in one)
            cells.append(f"{statistics.mean(some):.3f} ({min(some):.3f} to {max(some):.3f}; {len(some)} at {rate:g})"
                         + (f"; {others}" if others else ""))
        lines.append(f"| {base or 'nothing (random weights)'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/pretraining_helps"))
    options.add_argument("--tokens", type=int, default=5_000_000)
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4])
    options.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=list(LANGUAGES))
    options.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    options.add_argument("--table", action="store_true", help="print what is there and end")
    given = options.parse_args()
    if not given.table:
        from llmkit import recipe
        from llmkit.training.fit import fit

        size = {**SIZE, "hidden_size": given.width, "intermediate_size": 4 * given.width}
        for language in given.languages:
            for objective in given.objectives:
                fit(recipe.load(pretraining(language, objective, given.folder, given.tokens, size)))
            for seed in given.seeds:
                for base in (None, *given.objectives):
                    first = seed == given.seeds[0]
                    for rate in given.rates if first else [
                            best_rate(accuracies(given.folder, language, base), given.seeds[0])]:
                        fit(recipe.load(finetuning(language, base, seed, rate, given.folder, size)))
    print(table(given.folder, given.seeds[0]))


if __name__ == "__main__":
    main()
