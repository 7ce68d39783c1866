"""A T5 from scratch on Tatoeba, English to Chinese: BLEU on pairs whose English it never saw, after a few epochs.

    LLMKIT_DATA=folder python benchmarks/translation_tatoeba.py --folder runs/tatoeba

22,075 pairs of `tatoeba_en_zh/cmn.txt`, of which a hash of the English holds out every 21st. Stop it whenever you like,
the same command goes on.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

SHARE = 21
"""One English sentence of so many is held out, with all of its translations."""


def held_out(english: str) -> bool:
    """Whether a hash of a sentence holds it out: the same ones on any machine."""
    return int.from_bytes(hashlib.sha256(english.encode()).digest()[:8]) % SHARE == 0


def parted(pairs: Path, folder: Path) -> tuple[str, str]:
    """The files of pairs to learn from, and of pairs to be measured on: {"en": …, "zh": …} a line."""
    rows = [line.split("\t")[:2] for line in pairs.read_text(encoding="utf-8").splitlines()]
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, wanted in (("train", False), ("held_out", True)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"en": en, "zh": zh}, ensure_ascii=False) + "\n" for en, zh in rows
                                if held_out(en) is wanted), encoding="utf-8")
        names.append(str(path))
    return names[0], names[1]


def recipe_of(train: str, validation: str, folder: Path, epochs: float, options: list[str]) -> Any:
    """The recipe; `options` are as those of --set."""
    from llmkit import recipe

    return recipe.load({
        "name": "tatoeba-en-zh",
        "backbone": {"family": "t5", "config": {
            "num_layers": 4, "num_decoder_layers": 4, "d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 1024,
            "dropout_rate": 0.1}},
        "tokenizer": {"train": {"vocab_size": 8000}},  # shared by both languages, and so are the embeddings
        "data": {"train": train, "validation": [{"source": validation}], "max_length": 64},
        "task": {"name": "translation", "source_lang": "en", "target_lang": "zh", "label_smoothing_factor": 0.1,
                 "num_beams": 4, "max_new_tokens": 60, "generation_rows": 32},
        "optimizer": {"name": "adamw_rms"},
        "training": {"num_train_epochs": epochs, "global_batch_size": 64, "learning_rate": 2e-2,
                     "lr_scheduler_type": "cosine", "warmup_steps": 100, "weight_decay": 0.0, "logging_steps": 20,
                     "eval_steps": 329, "save_steps": 329, "figures": False},
        "output_dir": str(folder / "run")}, options)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/tatoeba"))
    options.add_argument("--epochs", type=float, default=8)
    options.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    from llmkit.system import report
    from llmkit.training.fit import fit

    report.to_stderr()
    files = parted(Path(os.environ["LLMKIT_DATA"]) / "tatoeba_en_zh" / "cmn.txt", given.folder)
    summary = fit(recipe_of(*files, given.folder, given.epochs, given.set))
    print(json.dumps({name: summary[name] for name in
                      ("steps", "tokens", "wall_seconds", "tokens_per_second", "parameters", "evaluation", "floors",
                       "bleu_signature")}, indent=1))


if __name__ == "__main__":
    main()
