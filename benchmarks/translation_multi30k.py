"""A Transformer from scratch on Multi30k, English to German: BLEU on its validation set, after a few epochs.

    LLMKIT_DATA=folder python benchmarks/translation_multi30k.py --folder runs/multi30k

29,000 captions, 1,014 held out; cased, untokenized text, sacreBLEU's own tokenizer. Stop it whenever you like, the same
command goes on.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any


def recipe_of(data: Path, folder: Path, epochs: float, options: list[str]) -> Any:
    """The recipe; `options` are as those of --set."""
    from llmkit import recipe

    def pair(name: str) -> list[dict[str, str]]:
        return [{"source": str(data / f"{name}.en.gz"), "target": str(data / f"{name}.de.gz")}]

    return recipe.load({
        "name": "multi30k-en-de",
        "backbone": {"family": "transformer", "config": {
            "encoder_layers": 3, "decoder_layers": 3, "d_model": 256, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "dropout": 0.1, "activation_function": "relu",
            "scale_embedding": True, "max_position_embeddings": 128}},
        "tokenizer": {"train": {"vocab_size": 8000}},  # shared by both languages, and so are the embeddings
        "data": {"train": pair("train"), "validation": pair("val"), "max_length": 64},
        "task": {"name": "translation", "source_lang": "en", "target_lang": "de", "label_smoothing_factor": 0.1,
                 "num_beams": 4, "max_new_tokens": 60, "generation_rows": 32},
        "training": {"num_train_epochs": epochs, "global_batch_size": 64, "micro_batch_size": 16,
                     "learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_steps": 400,
                     "adam_beta2": 0.98, "weight_decay": 0.01, "logging_steps": 20, "eval_steps": 454,
                     "save_steps": 200},
        "output_dir": str(folder)}, options)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("runs/multi30k"))
    options.add_argument("--epochs", type=float, default=5)
    options.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    from llmkit.system import report
    from llmkit.training.fit import fit

    report.to_stderr()
    data = Path(os.environ["LLMKIT_DATA"]) / "multi30k"
    summary = fit(recipe_of(data, given.folder, given.epochs, given.set))
    print(json.dumps({name: summary[name] for name in
                      ("steps", "tokens", "wall_seconds", "tokens_per_second", "parameters", "evaluation", "floors",
                       "bleu_signature")}, indent=1))


if __name__ == "__main__":
    main()
