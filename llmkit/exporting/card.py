"""The model card of an exported folder: where the model came from, what it measured, and how it is opened."""

from __future__ import annotations

from typing import Any

import yaml

from llmkit.exporting.origin import Provenance
from llmkit.models import layout
from llmkit.system import report
from llmkit.system.markdown import block, code, prose

TASKS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModel": "feature-extraction",
}
"""What a hub calls the use of a model, by the auto class that it is opened with."""


def card(origin: Provenance, name: str, kind: str, library: str, how: str) -> str:
    """The whole page. `how` is the format's own part: what the files are, and code that opens them."""
    lines = [front_matter(origin, kind, library), f"# {prose(name)}", ""]
    if origin.summary:
        lines += report.facts(origin.summary)
    else:
        lines += [f"A copy of {code(origin.model)}, made with llmkit.", ""]
    if origin.adapter:
        lines += [f"Its adapter ({prose(origin.adapter)}) is merged into the weights of {code(str(origin.base))}: "
                  "neither peft nor llmkit is needed.", ""]
    if origin.recipe:
        lines += [f"`{layout.RECIPE}` has every setting that it was trained with; llmkit can run it again. Of files "
                  "and folders that were named by a full path, it has the names alone.", ""]
    if origin.licence:
        whose = f"{code(origin.base)}, which it started from," if origin.base else code(origin.model)
        lines += [f"The licence of {whose} is {prose(origin.licence)}.", ""]
    return "\n".join([*lines, "## Use", "", how, ""])


def front_matter(origin: Provenance, kind: str, library: str) -> str:
    """What a hub reads of the card."""
    said: dict[str, Any] = {"library_name": library, "pipeline_tag": TASKS.get(kind), "license": origin.licence,
                            "base_model": origin.base_id,
                            "datasets": [one.removeprefix("hub:") for one in origin.data if one.startswith("hub:")],
                            "tags": ["llmkit"]}
    kept = {key: value for key, value in said.items() if value}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---"


def python(*lines: str) -> str:
    """Lines of Python as a card shows them."""
    return block("\n".join(lines), "python")
