"""The Hugging Face layout: safetensors, config and tokenizer, opened by plain transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmkit import models
from llmkit.exporting import example, pooling
from llmkit.exporting.card import python
from llmkit.exporting.origin import Provenance
from llmkit.models import Opened, layout
from llmkit.models.pooling import Pooling
from llmkit.objectives.shared import text_head
from llmkit.system.errors import RequestError

LIBRARY = "transformers"
DTYPES = ("float32", "bfloat16", "float16")
BESIDE = ("modules.json", "*/config.json", "sentence_bert_config.json", "config_sentence_transformers.json")
"""What sentence-transformers has beside a model: how its states become one vector."""


def check(config: Mapping[str, Any]) -> None:
    """Every model has this layout."""


def write(opened: Opened, origin: Provenance, folder: Path, dtype: str | None) -> dict[str, Any]:
    """Fill a folder; with the model's own files where nothing is merged or converted. Returns {"dtype"}.

    RequestError where the dtype can't hold a weight.
    """
    source = origin.source
    saved = saved_dtype(source)
    if not (source / layout.ADAPTER).is_file() and dtype in (None, saved):
        copy(source, folder, (*models.SAFE, *BESIDE))
        return {"dtype": saved}
    converted(opened.model, dtype or saved).save_pretrained(folder)
    opened.tokenizer.save_pretrained(folder)
    copy(source, folder, BESIDE)
    return {"dtype": dtype or saved}


def saved_dtype(source: Path) -> str:
    """What a folder's weights are in; float32 for an adapter, which is merged in that."""
    if (source / layout.ADAPTER).is_file():
        return "float32"
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def converted(model: Any, dtype: str) -> Any:
    """A model in another dtype; RequestError where that can't hold a weight."""
    import torch

    kind = getattr(torch, dtype)
    largest = max(float(one.abs().max()) for one in model.parameters())
    if largest > torch.finfo(kind).max:
        raise RequestError(f"--dtype {dtype}: a weight of {largest:.3g} is more than it can hold; take bfloat16.")
    return model.to(kind)


def copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of a folder that match."""
    for pattern in patterns:
        for path in source.glob(pattern):
            place = target / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)


# ---- what the card shows ------------------------------------------------------------------------------------------


def how(opened: Opened, origin: Provenance, folder: Path, at: str) -> str:
    """How transformers opens the folder, in a few lines that run as they are; `at` is the folder, or its hub id."""
    kind = opened.kind
    way = pooling.read(folder) if kind == "AutoModel" else None
    averages = example.averages(opened, folder)
    parts = ["With transformers and nothing else" + (", in this folder:" if at == "." else ":"), "", python(
        f"from transformers import {kind}, AutoTokenizer", "",
        f'tokenizer = AutoTokenizer.from_pretrained("{at}")', f'model = {kind}.from_pretrained("{at}")',
        *lines(opened, origin, way, averages))]
    if averages:
        parts += ["", text_head.TOLD]
    if way is not None:
        parts += ["", "Or with sentence-transformers:", "", python(
            "from sentence_transformers import SentenceTransformer", "",
            f'print(SentenceTransformer("{at}").encode([{example.quoted(*example.PAIR)}]))')]
    return "\n".join(parts)


def lines(opened: Opened, origin: Provenance, way: Pooling | None, averages: bool = False) -> list[str]:
    """A model is given something to read, and what it says is printed: by what its head is for.

    `averages`: whether it answers for a text by the mean of what it says of the tokens.
    """
    kind, config = text_head.WHOLE if averages else opened.kind, opened.model.config
    said = "model(**inputs).logits" + (".mean(1)" if averages else "")

    def reads(*texts: str) -> str:
        return f'inputs = tokenizer({example.quoted(*texts)}, return_tensors="pt")'

    text = reads(example.text_for(opened, origin))
    if example.is_permuted(opened):
        return [text, 'hidden = (inputs["input_ids"] == tokenizer.mask_token_id).float()[:, None]',
                "said = model(**inputs, perm_mask=hidden.repeat(1, hidden.shape[2], 1), target_mapping=hidden)",
                "print(tokenizer.batch_decode(said.logits[0].topk(5).indices.T))"]
    if kind in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        if opened.tokenizer.chat_template:
            text = (f"inputs = tokenizer.apply_chat_template({json.dumps(example.MESSAGES)}, "
                    'add_generation_prompt=True, return_dict=True, return_tensors="pt")')
        return [text, "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))"]
    if kind == "AutoModelForMaskedLM":
        return [text, 'masked = inputs["input_ids"][0] == tokenizer.mask_token_id',
                "print(tokenizer.batch_decode(model(**inputs).logits[0, masked].topk(5).indices.T))"]
    if kind == text_head.WHOLE:
        if config.problem_type == "regression":
            return [text, f"print({said}[0].item())"]
        if config.problem_type == "multi_label_classification":
            sure = f"{said}[0].sigmoid() > {origin.learned.get('threshold', 0.5)}"
            return [text, f"print([model.config.id2label[i] for i, is_so in enumerate({sure}) if is_so])"]
        return [text, f"print(model.config.id2label[{said}[0].argmax().item()])"]
    if example.finds_replaced(opened):
        return [text, "print(list(zip(inputs.tokens(), model(**inputs).logits.sigmoid().flatten().tolist())))"]
    if kind == "AutoModelForTokenClassification":
        return [text, "labels = [model.config.id2label[i] for i in model(**inputs).logits[0].argmax(-1).tolist()]",
                "print(list(zip(inputs.tokens(), labels)))"]
    if kind == "AutoModelForQuestionAnswering":
        return [reads(*example.question_for(opened)), "said = model(**inputs)",
                "start, end = said.start_logits[0].argmax(), said.end_logits[0].argmax()",
                'print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))']
    if kind == "AutoModelForMultipleChoice":
        asked = json.dumps([example.QUESTION] * len(example.CHOICES))
        return [f'inputs = tokenizer({asked}, {json.dumps(example.CHOICES)}, padding=True, return_tensors="pt")',
                "inputs = {name: one[None] for name, one in inputs.items()}",
                "print(model(**inputs).logits[0].argmax().item())"]
    if example.scores_pairs(opened):
        words = kind == "AutoModelForPreTraining"
        relation = {True: "sop_logits" if config.model_type == "albert" else "seq_relationship_logits", False: "logits"}
        return [reads(*example.PAIR), f"print(model(**inputs).{relation[words]}[0].softmax(-1).tolist())",
                *(["print(model(**inputs).prediction_logits.shape)"] if words else [])]
    if way is not None:
        return [f'inputs = tokenizer([{example.quoted(*example.PAIR)}], padding=True, return_tensors="pt")',
                "states = model(**inputs).last_hidden_state", *pooling.in_torch(way), "print(vectors)"]
    return [text, "print(model(**inputs)[0].shape)"]
