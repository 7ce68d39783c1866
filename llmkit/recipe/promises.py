"""What each method of a plug-in promises to whoever calls it, in words, and what can be wrong with what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

Fault: TypeAlias = Callable[[Any, Any], str]
"""What is wrong with what a plug-in returned: (plug-in, value) -> words; "" where nothing is."""


@dataclass(frozen=True)
class Promise:
    """What a method gives to whoever calls it."""

    words: str
    """What is wanted, after "it must return"."""
    fault: Fault
    each: bool = False
    """Whether it may yield what it gives, one after the other: then `fault` is of each."""


# ---- what can be wrong with a value ----


def shown(value: Any) -> str:
    """A value, in a few words: `a Tensor of shape (8, 2)`, `{'loss': 1.5}`, `None`."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, Mapping):
        items = [f"{name!r}: {shown(one)}" for name, one in list(value.items())[:4]]
        return "{" + ", ".join(items) + (", …" if len(value) > 4 else "") + "}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}, {value!r:.80}"


def anything(plugin: Any, value: Any) -> str:
    """Whatever it returns will do."""
    return ""


def a(*kinds: type[Any] | str, none: bool = False) -> Fault:
    """One of these types, named where llmkit's own lie in folders above; or None."""
    known = tuple(kind for kind in kinds if isinstance(kind, type))
    names = {kind for kind in kinds if isinstance(kind, str)}

    def fault(plugin: Any, value: Any) -> str:
        right = isinstance(value, known) or names & {cls.__name__ for cls in type(value).__mro__}
        return "" if right or (none and value is None) else f"returned {shown(value)}"

    return fault


def a_pair(plugin: Any, value: Any) -> str:
    """Two things."""
    return "" if isinstance(value, tuple) and len(value) == 2 else f"gave {shown(value)}"


def a_list(plugin: Any, value: Any) -> str:
    """Several things that can be counted: a list, an array."""
    right = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
    return "" if right else f"returned {shown(value)}"


def a_list_if_any(plugin: Any, value: Any) -> str:
    """A list, or None."""
    return "" if value is None else a_list(plugin, value)


def sums(plugin: Any, value: Any) -> str:
    """A tensor of one number for each head."""
    heads = list(plugin.weights)
    if not isinstance(value, Mapping) or any(head not in value for head in heads):
        return f"returned {shown(value)}; its heads are {', '.join(heads)}"
    return next((f"returned {shown(value[head])} for {head}" for head in heads if _numel(value[head]) != 1), "")


def counts(plugin: Any, value: Any) -> str:
    """The same, of plain numbers too."""
    plain = isinstance(value, Mapping) and all(isinstance(count, int | float) for count in value.values())
    return "" if plain and set(plugin.weights) <= set(value) else sums(plugin, value)


def slopes(plugin: Any, value: Any) -> str:
    """Sums, of which at least one can be learned from, where something is learned."""
    import torch

    if why := sums(plugin, value):
        return why
    if torch.is_grad_enabled() and not any(value[head].requires_grad for head in plugin.weights):
        return "returned losses without a gradient: something took them apart from the model"
    return ""


def judgement(plugin: Any, value: Any) -> str:
    """(losses, outcomes)."""
    if not isinstance(value, tuple) or len(value) != 2:
        return f"returned {shown(value)}"
    return sums(plugin, value[0]) or a_list(plugin, value[1])


def features(plugin: Any, value: Any) -> str:
    """Arrays by name; where llmkit's own code makes rows and batches of them, with ids, and of some length."""
    if not isinstance(value, Mapping):
        return f"returned {shown(value)}"
    if "input_ids" not in value and _from(plugin, "prepare").startswith("llmkit."):
        return f"returned {', '.join(map(str, value)) or 'nothing'}, and no input_ids"
    if _from(plugin, "collate") != BASE:
        return ""
    return next((f"returned {shown(part)} for {name}" for name, part in value.items()
                 if a_list(plugin, part) or getattr(part, "shape", None) == ()), "")


def drawn(plugin: Any, value: Any) -> str:
    """Features; where llmkit's own batch and loss are made of them, of one length."""
    why = features(plugin, value)
    if why or any(_from(plugin, name) != BASE for name in ("finish", "collate", "loss", "at_targets", "targets")):
        return why
    for name, part in value.items():
        if len(getattr(part, "shape", (0,))) != 1:
            return f"returned {shown(part)} for {name}, which isn't one row"
    if "labels" not in value:
        return f"returned {', '.join(value)}, and no labels"
    reads = "decoder_input_ids" if "decoder_input_ids" in value else "input_ids"
    if len(value["labels"]) != len(value[reads]):
        return f"returned {len(value['labels'])} labels for {len(value[reads])} {reads}"
    return ""


BASE = "llmkit.objectives.base"


def _from(plugin: Any, method: str) -> str:
    """The module that a method of a plug-in is from."""
    return str(inspect.unwrap(getattr(type(plugin), method)).__module__)


def _numel(value: Any) -> int:
    """How many numbers a tensor has; 0 of what is none."""
    return int(value.numel()) if "Tensor" in {cls.__name__ for cls in type(value).__mro__} else 0


def rows_of_features(plugin: Any, value: Any) -> str:
    """A list of features."""
    return a_list(plugin, value) or next(
        (f"{why}, as one of its rows" for why in (features(plugin, row) for row in value) if why), "")


def tensors(plugin: Any, value: Any) -> str:
    """Tensors by name."""
    if not isinstance(value, Mapping):
        return f"returned {shown(value)}"
    tensor = a("Tensor")
    return next((f"{why} for {name}" for name, part in value.items() if (why := tensor(plugin, part))), "")


def numbers(plugin: Any, value: Any) -> str:
    """Numbers by name."""
    if not isinstance(value, Mapping):
        return f"returned {shown(value)}"
    return next((f"returned {shown(figure)} for {name}" for name, figure in value.items()
                 if not isinstance(figure, int | float)), "")


# ---- what is promised ----

ANY = Promise("", anything)
LOSSES = "a dict with a tensor of one number for each head, the loss summed over the head's targets: {'loss': …}"
COUNTS = "a dict with a tensor of one number for each head, how many targets it has: {'loss': …}"
FEATURES = "a dict of arrays of one row, {'input_ids': …, 'labels': …}"
FIGURES = "a dict of numbers, {'accuracy': 0.5}"
LEARNING: dict[str, Promise] = {
    "weights": Promise("a dict of numbers, what each head counts for", numbers),
    "head_for": Promise("the name of an auto class of transformers, or ''", a(str)),
    "missing": Promise("a dict for the tokenizer's add_special_tokens", a(Mapping)),
    "worded": Promise("a text or None", a(str, none=True)),
    "assemble": Promise("the module that trains", a("Module")),
    "kept": Promise("the model that a run leaves", a("Module")),
    "others": Promise("a dict of modules by the name of their folder", a(Mapping)),
    "describe": ANY,
    "turn": Promise("the start of the names of parameters, or None", a(str, none=True)),
    "pace": Promise("a number", a(int, float)),
    "verdict": Promise("why the run should end, or None", a(str, none=True)),
    "config": Promise("a dict of fields of the model's config", a(Mapping)),
    "suited": Promise("the objective or task itself, or a copy", a("Objective")),
    "texts": Promise("texts, one after the other", a(str), each=True),
    "prepare": Promise("llmkit.objectives.base.Sets", a("Sets")),
    "layout": Promise("llmkit.data.rows.Layout", a("Layout")),
    "draw": Promise(FEATURES, drawn),
    "finish": Promise(f"the row, {FEATURES}", features),
    "collate": Promise("a dict of tensors (rows, longest)", tensors),
    "targets": Promise(COUNTS, counts),
    "unteachable": Promise("why no teacher can be learned from, or ''", a(str)),
    "respond": Promise("a dict with an llmkit.objectives.base.Response for each head", a(Mapping)),
    "scored": Promise(LOSSES, sums),
    "loss": Promise(LOSSES, slopes),
    "represent": Promise("a tensor (rows, …)", a("Tensor")),
    "compare": Promise(LOSSES, sums),
    "grade": Promise("a tensor with a number for each row, (rows,)", a("Tensor")),
    "judge": Promise(f"(losses, outcomes): {LOSSES}; and a list", judgement),
    "to_write": Promise("numbers of rows, or None", a_list_if_any),
    "figures": Promise(FIGURES, numbers),
    "show": Promise("a list with a dict of texts for each row, or []", a(list)),
    "tally": Promise("a dict of what there is to count of an evaluation's answers, or {}", a(Mapping)),
    "metrics": Promise(FIGURES, numbers),
    # of tasks
    "read": Promise("rows and where each stands, (row, place)", a_pair, each=True),
    "stream": Promise("rows and where each stands, (row, place)", a_pair, each=True),
    "columns": Promise("a dict from fields to the columns that they stand in", a(Mapping)),
    "check": Promise("the row, a dict", a(Mapping)),
    "swapped": Promise("a row, a dict, or None", a(Mapping, none=True)),
    "room": Promise("a number of tokens", a(SupportsIndex)),
    "encode": Promise(f"a list with features for each row: {FEATURES}", rows_of_features),
    "refer": Promise("a list with numbers for each row", a_list),
    "predict": Promise("a list with what the model says of each row", a_list),
    "combine": Promise("the prediction, a dict: {'label': …, 'score': …}", a(Mapping)),
    "labels_of": Promise("a list of the labels that a row counts for", a_list),
    "seen": Promise("a list with the rows as the model sees them", a_list),
    "floors": Promise("a dict of figures by what reaches them", a(Mapping)),
    "turned_round": Promise("a task", a("Objective")),
    "limited": Promise("a task", a("Objective")),
    "by_words": Promise("a task, or None", a("Objective", none=True)),
}
METHOD: dict[str, Promise] = {
    "check": ANY, "check_parts": ANY, "after_step": ANY, "restore": ANY, "save": ANY,
    "trains_model": ANY,
    "virtual_tokens": Promise("a number of positions", a(SupportsIndex)),
    "unquantized": Promise("a text", a(str)),
    "packs": ANY,
    "apply": Promise("the model, whose parameters that train have requires_grad", a("Module")),
    "penalty": Promise("a tensor of one number, or None", a("Tensor", none=True)),
    "state": Promise("a dict of tensors by name", tensors),
    "rates": Promise("a dict of numbers by a parameter's name", numbers),
    "wakes": Promise("a dict of steps by a parameter's name", numbers),
    "describe": Promise("a text", a(str)),
}
MODE: dict[str, Promise] = {
    "check": ANY,
    "prompt": Promise("llmkit.prompting.base.Prompt", a("Prompt")),
    "questions": Promise("a list of llmkit.prompting.base.Question", a("Question"), each=True),
    "words": Promise("a dict with the words of each label", a(Mapping)),
    "reseeded": Promise("a prompt mode", a("Prompting")), "bare": Promise("a prompt mode", a("Prompting")),
    "settled": Promise("a prompt mode", a("Prompting")),
    "chats": ANY, "wants": Promise("a number of examples", a(SupportsIndex)),
}
FAMILY: dict[str, Promise] = {
    "config": Promise("a config of transformers", a("PreTrainedConfig", "PretrainedConfig")),
    "own_ids": Promise("a dict of fields of the config", a(Mapping)),
    "decoder_start": Promise("the id of a token", a(SupportsIndex)),
    "check_config": ANY,
    "position_limit": Promise("a number of positions, or None", a(SupportsIndex, none=True)),
    "outputs": Promise("what the model returned", lambda plugin, value: "returned None" if value is None else ""),
    "isolated": Promise("what the model returned", lambda plugin, value: "returned None" if value is None else ""),
}
