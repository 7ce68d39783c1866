"""GLUE and CLUE: what each of their sets is for, which columns are which fields, and what it is measured by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmkit.data.known import folders
from llmkit.system.addresses import at_home
from llmkit.system.errors import RequestError, nearest

Row = Mapping[str, Any]

ENTAILMENT = ("entailment", "neutral", "contradiction")
TNEWS = tuple(str(number) for number in range(100, 117) if number not in (105, 111))
"""The topics of tnews go by numbers; two of them are used by nobody."""


@dataclass(frozen=True)
class KnownSet:
    """A data set that many measure on."""

    fields: Mapping[str, str]
    """Our fields, and the columns that hold them."""
    labels: tuple[str, ...] = ()
    """The names of its classes, in the order of their numbers."""
    task: str = "classification"
    validation: str = "validation"
    """The split that is measured on while one learns: test sets have no labels."""
    metrics: tuple[str, ...] = ()
    """What its authors measure it by, where that isn't a figure of the task anyway (accuracy; pearson, spearman)."""
    make: Callable[[Row], dict[str, Any]] | None = field(default=None, compare=False)
    """What makes our row of one whose fields aren't columns."""
    note: str = ""
    """What else there is to say of it, once."""

    def row(self, row: Row) -> dict[str, Any]:
        """A row with our names; a label that is written as the number of a class is that number.

        {"sentence": "A fine film.", "label": 1, "idx": 7}  ->  {"text": "A fine film.", "label": 1}
        """
        made = {name: row[column] for name, column in self.fields.items() if column in row}
        made |= {} if self.make is None else self.make(row)
        label = made.get("label")
        if self.labels and isinstance(label, str) and label not in self.labels:
            number = int(label) if label.strip().isdecimal() else -1
            made["label"] = number if number < len(self.labels) and number >= 0 else label
        return made


def _single(*labels: str, text: str = "sentence", **more: Any) -> KnownSet:
    return KnownSet({"text": text, "label": "label"}, labels, **more)


def _pair(one: str, other: str, *labels: str, **more: Any) -> KnownSet:
    return KnownSet({"text": one, "text_pair": other, "label": "label"}, labels, **more)


def keywords(row: Row) -> dict[str, Any]:
    """csl: do these keywords belong to this abstract? {"abst": "…", "keyword": ["猫", "狗"]} -> text, text_pair"""
    return {"text": row["abst"], "text_pair": "，".join(row["keyword"])}


def coreference(row: Row) -> dict[str, Any]:
    """cluewsc2020: is [它] what _猫_ is? Both are marked in the text, as CLUE's own programs do; the later one first.

    {"text": "猫饿了，它叫。", "target": {"span1_text": "猫", "span1_index": 0, "span2_text": "它", "span2_index": 4}}
        -> {"text": "_猫_饿了，[它]叫。"}
    """
    text, target = str(row["text"]), row["target"]
    spans = [(target[f"{name}_index"], target[f"{name}_text"], marks) for name, marks in (
        ("span1", "_{}_"), ("span2", "[{}]"))]
    for start, words, marks in sorted(spans, reverse=True):
        text = text[:start] + marks.format(text[start : start + len(words)]) + text[start + len(words) :]
    return {"text": text}


def right_choice(row: Row) -> dict[str, Any]:
    """c3: lines of a text are one context, and the right choice goes by its number, from 0; none: it isn't said."""
    context = row["context"] if isinstance(row["context"], str) else "\n".join(row["context"])
    choices = list(row["choice"])
    answer = {"answer": choices.index(row["answer"])} if row.get("answer") in choices else {"answer": None}
    return {"context": context, "question": row["question"], "choices": choices, **answer}


GLUE: dict[str, KnownSet] = {
    "cola": _single("unacceptable", "acceptable", metrics=("matthews",)),
    "sst2": _single("negative", "positive"),
    "mrpc": _pair("sentence1", "sentence2", "not_equivalent", "equivalent", metrics=("f1_positive",)),
    "qqp": _pair("question1", "question2", "not_duplicate", "duplicate", metrics=("f1_positive",)),
    "stsb": _pair("sentence1", "sentence2"),
    "mnli": _pair("premise", "hypothesis", *ENTAILMENT, validation="validation_matched",
                  note="measured on validation_matched; other kinds of text are in validation_mismatched, as in "
                       "`llmkit evaluate RUN --data {label}:validation_mismatched`"),
    "qnli": _pair("question", "sentence", "entailment", "not_entailment"),
    "rte": _pair("sentence1", "sentence2", "entailment", "not_entailment"),
    "wnli": _pair("sentence1", "sentence2", "not_entailment", "entailment"),
}
"""Wang et al. 2019; labels in the order of the hub's numbers."""
CLUE: dict[str, KnownSet] = {
    "tnews": _single(*TNEWS),
    "iflytek": _single(*map(str, range(119))),
    "afqmc": _pair("sentence1", "sentence2", "0", "1"),
    "cmnli": _pair("sentence1", "sentence2", "neutral", "entailment", "contradiction"),
    "ocnli": _pair("sentence1", "sentence2", "neutral", "entailment", "contradiction"),
    "csl": KnownSet({"label": "label"}, ("0", "1"), make=keywords),
    "cluewsc2020": KnownSet({"label": "label"}, ("true", "false"), make=coreference),
    "c3": KnownSet({}, task="multiple_choice", make=right_choice),
    "cmrc2018": KnownSet({"id": "id", "context": "context", "question": "question", "answers": "answers"},
                         task="question_answering"),
    "drcd": KnownSet({"id": "id", "context": "context", "question": "question", "answers": "answers"},
                     task="question_answering"),
}
"""Xu et al. 2020."""
UNFIT = {"chid": "its texts have several gaps, to be filled from one list of idioms, and no task of llmkit does that"}
"""Sets of theirs that no task reads, and why."""
BARE = frozenset({"ax", "mnli_matched", "mnli_mismatched", "diagnostics"})
"""Sets of theirs without training rows; they are read as they are."""
IDS: dict[str, dict[str, KnownSet]] = {"nyu-mll/glue": GLUE, "glue": GLUE, "clue/clue": CLUE, "clue": CLUE}
"""What the hub calls them."""


def on_hub(name: str, config: str) -> KnownSet | None:
    """The set of a hub's id and config; None where it is none of these. RequestError for one that there isn't."""
    sets = IDS.get(name.lower())
    if sets is None or config in BARE:
        return None
    if config in UNFIT and sets is CLUE:
        raise RequestError(f"hub:{name}:{config}: {UNFIT[config]}.")
    if config not in sets:
        which = f"{name} has no set {config!r}" if config else f"{name} has several sets, and none is named"
        raise RequestError(f"hub:{name}{f':{config}' * bool(config)}: {which}; write hub:{name}:<set>, one of "
                           f"{', '.join(sets)}.{nearest(config, sets) if config else ''}")
    return sets[config]


def by_columns(name: str, columns: Collection[str]) -> KnownSet | None:
    """The set that a folder is called after, where its columns are that set's; None where it is none."""
    known = {**GLUE, **CLUE}.get(name.lower())
    if known is None:
        return None
    made_of: dict[Callable[[Row], dict[str, Any]], set[str]] = {
        keywords: {"abst", "keyword"}, coreference: {"text", "target"}, right_choice: {"context", "choice"}}
    wanted = {*known.fields.values(), *(made_of[known.make] if known.make is not None else ())}
    return known if wanted - {"id", "label"} <= set(columns) else None


def has_validation(label: str) -> bool:
    """Whether a source is a known set with a validation split of its own: hub:nyu-mll/glue:sst2, a folder glue/sst2."""
    return _validation(label) is not None


def usual_split(label: str) -> str | None:
    """The split that a known set is measured on, where a source names the set alone; None of all others."""
    named = label.count(":") > 2 if label.startswith("hub:") else folders.parted(label)[1]
    return None if named else _validation(label)


def _validation(label: str) -> str | None:
    if label.startswith("hub:"):
        name, _, rest = label.removeprefix("hub:").partition(":")
        known = IDS.get(name.lower(), {}).get(rest.partition(":")[0])
        return None if known is None else known.validation
    path, _ = folders.parted(label)
    folder = at_home(path)
    known = {**GLUE, **CLUE}.get(folder.resolve().name.lower()) if folder.is_dir() else None
    splits = {} if known is None else folders.splits_of(folder)
    there = known is not None and any(name in splits for name in (known.validation, *folders.ALIKE["validation"]))
    return known.validation if known is not None and there else None
