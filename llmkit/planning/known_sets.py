"""GLUE and CLUE sets that are learned from: their own validation split, and what their authors measure them by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from llmkit import recipe
from llmkit.data.hub import KnownRows
from llmkit.data.known import folders
from llmkit.data.known.sets import has_validation
from llmkit.data.sources import Reader
from llmkit.system.addresses import at_home
from llmkit.system.terminal import shell_word

log = logging.getLogger("llmkit")


def suited(request: recipe.Recipe, train: Sequence[Reader]) -> recipe.Recipe:
    """A recipe with the validation split and the metrics of a known set, where it says nothing of either."""
    origin = train[0].origin if len(train) == 1 else None
    if request.task is None or not isinstance(origin, KnownRows):
        return request
    known, source, data, training = origin.known, request.data.train[0], request.data, request.training
    if data.validation is None and not has_validation(source.source):
        log.info("%s: has no split %s to be measured on; data.validation may be a share of its rows",
                 bare(source.source), known.validation)
    elif data.validation is None:
        held = replace(source, weight=None, split=known.validation, source=bare(source.source))
        data = replace(data, validation=[held])
        log.info("%s: measured on its split %s", bare(source.source), known.validation)
    if known.metrics and not training.metrics and recipe.registry.name_of(request.task) == known.task:
        training = replace(training, metrics=list(known.metrics))
        log.info("training.metrics: %s, as the authors of %s measure it", ", ".join(known.metrics), source.source)
    if known.note:
        log.info("%s: %s", bare(source.source), known.note.format(label=shell_word(bare(source.source))))
    return replace(request, data=data, training=training)


def bare(label: str) -> str:
    """A source's name without the split behind it: hub:nyu-mll/glue:sst2 of hub:nyu-mll/glue:sst2:train."""
    if label.startswith("hub:"):
        return ":".join(label.split(":")[:3])
    path, _ = folders.parted(label)
    return path if at_home(path).is_dir() else label
