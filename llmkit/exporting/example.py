"""What a model card gives a model to read: a text, a pair or a question, in the form that the model learned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llmkit.exporting.origin import Provenance
from llmkit.models import Opened
from llmkit.objectives.shared import text_head
from llmkit.tasks.shared.frame import frame_of

QUESTION, CONTEXT = "Who saw the moon?", "The cat saw the moon."
CHOICES = ("the cat", "a red ball")
PAIR = ("The cat saw the moon.", "It was full.")
MESSAGES = [{"role": "user", "content": "Who are you?"}]


def text_for(opened: Opened, origin: Provenance) -> str:
    """A text for a model that reads one."""
    if opened.kind == "AutoModelForMaskedLM" or is_permuted(opened):
        return f"The cat saw the {opened.tokenizer.mask_token}."
    text = "Once upon a time" if opened.kind == "AutoModelForCausalLM" else "The cat saw the moon."
    if template := origin.learned.get("template"):
        return re.sub(r"\{(text|prompt|source)\}", text, str(template))
    if "<extra_id_0>" in opened.tokenizer.get_vocab() and origin.learned.get("name") == "span_corruption":
        return text.replace("the moon", "<extra_id_0>")
    return text


def question_for(opened: Opened) -> tuple[str, ...]:
    """A question and where its answer is; in one text where the tokenizer puts nothing between two."""
    if frame_of(opened.tokenizer, False).after:
        return QUESTION, CONTEXT
    return (f"{QUESTION}\n{CONTEXT}",)


def quoted(*texts: str) -> str:
    """Texts as the arguments of a call: "a", "b"."""
    return ", ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def is_permuted(opened: Opened) -> bool:
    """Whether the model fills in a word that its attention leaves out (XLNet)."""
    config: Any = opened.model.config
    return bool(opened.kind == "AutoModelForCausalLM" and config.model_type == "xlnet")


def scores_pairs(opened: Opened) -> bool:
    """Whether the head tells of two texts whether they belong together."""
    config: Any = opened.model.config
    return opened.kind == "AutoModelForNextSentencePrediction" or (
        opened.kind == "AutoModelForPreTraining" and config.model_type in ("bert", "albert"))


def finds_replaced(opened: Opened) -> bool:
    """Whether the head tells of each token whether it was replaced (ELECTRA's discriminator)."""
    config: Any = opened.model.config
    if opened.kind == "AutoModelForTokenClassification":
        return bool(config.num_labels == 1)
    return bool(opened.kind == "AutoModelForPreTraining" and config.model_type == "electra")


def averages(opened: Opened, folder: Path) -> bool:
    """Whether its answer for a text is the mean of what the head says of the tokens, as files of the folder say."""
    return text_head.averages(opened.kind, folder)


def read_as(opened: Opened, folder: Path) -> str:
    """The auto class that it was opened with, or where it averages, the one that has an answer for a text."""
    return text_head.WHOLE if averages(opened, folder) else opened.kind
