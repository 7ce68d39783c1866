"""A model to give away: a folder that plain transformers loads, an adapter merged into its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from llmkit import models
from llmkit.errors import PlaceError

CODE = {
    "AutoModelForCausalLM": 'tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0])',
    "AutoModelForSeq2SeqLM": 'tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0])',
    "AutoModelForMaskedLM": "tokenizer.decode(model(**inputs).logits[0].argmax(-1))",
    "AutoModelForSequenceClassification": "model.config.id2label[model(**inputs).logits[0].argmax().item()]",
    "AutoModelForTokenClassification": "model(**inputs).logits[0].argmax(-1).tolist()",
}
"""What shows that a model works, by the auto class that it is opened with."""


def export(model: str | Path, to: str | Path) -> dict[str, Any]:
    """Write a run, a folder, a hub id or a catalogue model to the folder `to`, with its tokenizer and a model card.

    An adapter is merged into its base, in 32 bits; a model without one is copied as it is. Returns {"folder", "class",
    "merged": the adapter's type in peft, or None, "base", "from"}. RequestError where an adapter can't be merged,
    PlaceError where the folder holds something.
    """
    target = Path(to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PlaceError(f"--to {to}: holds something already; name a new folder.")
    source = models.resolve(model)
    about: dict[str, Any] = {"folder": str(to), "merged": None, "base": None, "from": str(model)}
    staging = target.with_name(f".{target.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        if (source / "adapter_config.json").is_file():
            adapter = json.loads((source / "adapter_config.json").read_text())
            about |= {"merged": adapter["peft_type"], "base": adapter.get("base_model_name_or_path")}
            opened = models.merge(source)
            about["class"] = opened.kind
            opened.model.save_pretrained(staging)
            opened.tokenizer.save_pretrained(staging)
            copy(source, staging, ("modules.json", "*/config.json"))  # how an embedding is pooled
        else:
            copy(source, staging, (*models.SAFE, "*/config.json"))
            about["class"] = models.kind_of(source)
        (staging / "README.md").write_text(card(about, summary_of(source), target.name), encoding="utf-8")
        for path in staging.rglob("*.safetensors"):  # which are written for their owner alone
            path.chmod(0o644)
        if target.exists():
            target.rmdir()
        staging.rename(target)
    except OSError as error:
        raise PlaceError(f"{error.filename or target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return about


def copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of a folder that match."""
    for pattern in patterns:
        for path in source.glob(pattern):
            place = target / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)


def summary_of(folder: Path) -> dict[str, Any]:
    """What is known of the run that a folder is the model/ of; nothing where it is no run."""
    path = folder.parent / "summary.json"
    return dict(json.loads(path.read_text())) if folder.name == "model" and path.is_file() else {}


def card(about: dict[str, Any], summary: dict[str, Any], name: str) -> str:
    """The model card: where the model came from, what it measured, and how plain transformers opens it."""
    shown = CODE.get(about["class"], "model(**inputs)[0].shape")
    text = "Once upon a time" if "generate" in shown else "A text to try."
    base = [f"base_model: {about['base']}"] if about["base"] and not Path(about["base"]).is_absolute() else []
    lines = ["---", "library_name: transformers", *base, "tags: [llmkit]", "---", f"# {name}", ""]
    if summary:
        recipe = summary["recipe"]
        lines += [f"{recipe['what']} with llmkit {summary['versions']['llmkit']}: backbone `{recipe['backbone']}`, "
                  f"{recipe['kind']} `{recipe['learning']}`, tuning `{recipe['tuning']}`; {summary['steps']:,} steps, "
                  f"data {', '.join(f'`{source}`' for source in recipe['data'])}.", ""]
    else:
        lines += [f"A copy of `{about['from']}`, made with llmkit.", ""]
    if about["merged"]:
        lines += [f"Its adapter ({about['merged']}) is merged into the weights of `{Path(about['base']).name}`: "
                  "neither peft nor llmkit is needed.", ""]
    if figures := summary.get("evaluation"):
        lines += ["| metric | value |", "|---|---|"]
        lines += [*(f"| {key} | {value:.4f} |" for key, value in figures.items()), ""]
    return "\n".join([
        *lines, "```python", f"from transformers import {about['class']}, AutoTokenizer", "",
        f"tokenizer = AutoTokenizer.from_pretrained({about['folder']!r})",
        f"model = {about['class']}.from_pretrained({about['folder']!r})",
        f'inputs = tokenizer("{text}", return_tensors="pt")', f"print({shown})", "```", ""])
