"""The pooling that a model card can show and a graph can hold: the mean of an encoder's states, or the first one."""

from __future__ import annotations

from pathlib import Path

from llmkit.exporting import example
from llmkit.models import Opened, pooling
from llmkit.models.pooling import Pooling
from llmkit.system.errors import RequestError


def read(folder: Path) -> Pooling | None:
    """What a folder says; None where it says nothing, or another way than those two."""
    try:
        found = pooling.read(folder)
    except RequestError:  # of a module that llmkit doesn't know, the files go along, and the model is only a model
        return None
    return found if found.modes in (("mean",), ("cls",)) else None


def of(opened: Opened, folder: Path) -> Pooling | None:
    """What is made of an opened model's states, or of its answers for the tokens; None where nothing is."""
    return read(folder) if opened.kind == "AutoModel" or example.averages(opened, folder) else None


def in_torch(way: Pooling) -> list[str]:
    """Pooling as lines of code for a reader: `states` and `inputs` to `vectors`."""
    norm = ["vectors = vectors / vectors.norm(dim=-1, keepdim=True)"] if way.normalized else []
    if way.modes == ("cls",):
        return ["vectors = states[:, 0]", *norm]
    return ['mask = inputs["attention_mask"][..., None]', "vectors = (states * mask).sum(1) / mask.sum(1)", *norm]
