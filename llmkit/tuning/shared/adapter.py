"""What the methods of peft that change layers share: which layers, how the model is wrapped, how it is saved."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family
from llmkit.models.layout import ADAPTER
from llmkit.system.errors import RequestError, nearest
from llmkit.tuning.base import TASK_TYPES, Setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("llmkit")

CALLED_AS_IT_IS = ("AutoModelForMaskedLM", "AutoModelForQuestionAnswering")
"""Auto classes that go without a task type: peft has none for one, and its own for the other drops token types."""

ALL = "all-linear"
"""Every linear layer but the head: what is taken where nobody knows a family's layers."""
HEADS = ("classifier", "score")
"""Heads of classifiers that peft knows."""

Targets = list[str] | str | None


def task_type(head: str) -> str | None:
    """The task type in peft for an auto class; None where the model is called as it is."""
    return None if head in CALLED_AS_IT_IS else TASK_TYPES.get(head)


def check(targets: Targets, family: type[Family], known: Collection[str], everywhere: bool = True) -> None:
    """Raise RequestError where nothing is named; say so where neither peft (`known`) nor the family has a choice.

    `everywhere`: whether the method can then go to all linear layers.
    """
    if targets is None and family.model_type not in known and not projections(family):
        if not everywhere:
            raise RequestError(f"tuning.target_modules: peft has no default for {family.model_type}; name layers.")
        log.info("tuning.target_modules %s: peft has no default for %s", ALL, family.model_type)
    if targets in ([], ""):
        raise RequestError("tuning.target_modules: nothing is named; name layers, say all-linear, or leave it out.")


def projections(family: type[Family]) -> list[str]:
    """The family's own choice, or what peft has for its low-rank products; empty where there is neither."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA

    found = family.projections or LORA.get(family.model_type, ())
    return [found] if isinstance(found, str) else list(found)


def targets(model: PreTrainedModel, wanted: Targets, family: type[Family], known: Collection[str]) -> Targets:
    """The layers that are named, else None for peft's own choice, else the family's projections.

    RequestError for any name that no layer has: peft is content when one of several matches.
    """
    if wanted is None:
        return None if family.model_type in known else projections(family) or ALL
    refuse_experts(model, wanted)
    names = [name for name, _ in model.named_modules() if name]
    leaves = dict.fromkeys(name.rpartition(".")[2] for name, part in model.named_modules() if part._parameters)
    leaf = [leaf for leaf in leaves if leaf]
    if isinstance(wanted, list):
        for target in wanted:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise RequestError(f"tuning.target_modules: no layer of {type(model).__name__} is called {target!r}."
                                   f"{nearest(target, leaf)}")
    elif wanted != ALL:
        try:
            matches = any(re.fullmatch(wanted, name) for name in names)
        except re.error as error:
            raise RequestError(f"tuning.target_modules: {wanted!r} is no regular expression: {error}.") from error
        if not matches:
            raise RequestError(f"tuning.target_modules: {wanted!r} matches the whole name of no layer of "
                               f"{type(model).__name__}.{nearest(wanted, leaf)}")
    return wanted


def refuse_experts(model: PreTrainedModel, wanted: list[str] | str) -> None:
    """RequestError where the experts of a mixture are named: they are one tensor of a layer, and no linear layers."""
    tables = [name for name, parameter in model.named_parameters()
              if parameter.dim() == 3 and "experts" in name.split(".")]
    places = {place for name in tables for place in (name, name.rpartition(".")[0])}
    if isinstance(wanted, list):
        meant = next(
            (one for one in wanted if any(place == one or place.endswith(f".{one}") for place in places)), None)
    else:  # a regular expression that can't be read is told later
        meant = next((place for place in sorted(places) if place == wanted or (
            _readable(wanted) and re.fullmatch(wanted, place))), None)
    if meant is not None:
        raise RequestError(f"tuning.target_modules: {meant!r} are the experts of a layer, one tensor (experts, out, "
                           "in), and an adapter goes to linear layers only. Name layers of attention (q_proj, v_proj); "
                           "full, layers and feed_forward train experts.")


def _readable(expression: str) -> bool:
    """Whether a text is a regular expression."""
    try:
        re.compile(expression)
    except re.error:
        return False
    return True


def check_named(wanted: Targets, make: Callable[[], PreTrainedModel], family: type[Family]) -> None:
    """Raise RequestError for a name that no layer of the model that `make` makes has."""
    if wanted is not None:
        targets(make(), wanted, family, ())


def where(wanted: Targets) -> str:
    """` on q_proj, v_proj`, for the log; nothing where the choice isn't the recipe's."""
    return "" if not wanted else " on " + (", ".join(wanted) if isinstance(wanted, list) else wanted)


def transposed(model: PreTrainedModel) -> bool:
    """Whether layers store their weights as (in, out), as GPT-2 does."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(part, Conv1D) for part in model.modules())


def wrap(model: PreTrainedModel, config: Any, setting: Setting) -> PreTrainedModel:
    """A PeftModel around the model: what the config adds, the parts that are new, and the heads peft knows train.

    A new head trains whole, so the method leaves it alone. RequestError says why peft can't do it.
    """
    from peft import get_peft_model

    config.task_type = task_type(setting.head)
    known = HEADS if config.task_type in ("SEQ_CLS", "TOKEN_CLS") else ()
    # peft trains the heads that it knows whole, and can't load a part of one beside it (RoBERTa's classifier.dense)
    new = [next((head for head in known if name.startswith(f"{head}.")), name) for name in setting.new]
    config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or ()), *new])) or None
    if vars(config).get("exclude_modules", ()) is None:
        whole = [name for name, _ in model.named_modules() if name.startswith(tuple(f"{head}." for head in known))]
        config.exclude_modules = {*setting.new, *new, *whole} or None
    try:
        tuned: PreTrainedModel = get_peft_model(model, config)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise RequestError(f"tuning: peft can't tune {type(model).__name__} so: {' '.join(str(error).split())[:300]}"
                           ) from error
    config.base_model_name_or_path = setting.base
    if config.modules_to_save is not None:  # peft adds the heads that it knows, several times
        config.modules_to_save = sorted(set(config.modules_to_save))
    return tuned


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write an adapter that peft opens."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    in_order(folder)


SETS = ("target_modules", "exclude_modules", "modules_to_save")
"""Fields of an adapter's config that are names in no order of their own."""


def in_order(folder: Path) -> None:
    """Sort the names of layers in an adapter's config, which peft writes in an order of chance."""
    path = folder / ADAPTER
    said = json.loads(path.read_text(encoding="utf-8"))
    said |= {name: sorted(value) for name, value in said.items() if name in SETS and isinstance(value, list)}
    path.write_text(json.dumps(said, indent=2, sort_keys=True), encoding="utf-8")
