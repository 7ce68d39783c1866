"""The ends of answers that a run learned and its model doesn't say: runs made before turn ends were kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from llmkit.inference.writing.context import listed
from llmkit.models.base import Base
from llmkit.models.families import family_named
from llmkit.models.run import recipe_of
from llmkit.objectives.base import Setup
from llmkit.recipe import Recipe
from llmkit.system.errors import RequestError
from llmkit.tasks.base import Task

if TYPE_CHECKING:
    from llmkit.models import Opened

log = logging.getLogger("llmkit")


def learned_ends(opened: Opened) -> list[int]:
    """The tokens that end a run's answers, by its task and chat template, and that its generation config doesn't name.

    None for a model that is no run's, or whose recipe can't be read here.
    """
    try:
        learned = recipe_of(opened.folder)
        task = None if learned is None else learned.task
        if learned is None or not isinstance(task, Task):
            return []
        taught = task.ends(_setup(opened, learned))
    except RequestError:  # of another version, or with plug-ins that aren't here: it writes as it always did
        return []
    config = opened.model.generation_config
    known = listed(None if config is None else config.eos_token_id) or listed(opened.tokenizer.eos_token_id)
    missing = [end for end in taught if end not in known]
    if missing:
        names = " and ".join(map(str, opened.tokenizer.convert_ids_to_tokens(missing)))
        log.info("%s: its answers were learned with %s at their end, which generation_config.json doesn't say: they "
                 "end there", opened.folder, names)
    return missing


def tell(opened: Opened) -> list[int]:
    """Let a model's generation config name the ends that its run learned, which are returned: others read just that."""
    model: Any = opened.model
    missing = learned_ends(opened) if model.can_generate() else []
    if missing:
        config = model.generation_config
        config.eos_token_id = [*(listed(config.eos_token_id) or listed(opened.tokenizer.eos_token_id)), *missing]
    return missing


def _setup(opened: Opened, learned: Recipe) -> Setup:
    name = str(learned.backbone.family)
    family = family_named(name, Base.open(opened.folder) if name == "auto" else None)
    return Setup(opened.tokenizer, family, learned.data.max_length or 512, "none", 0)
