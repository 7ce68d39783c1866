"""Label Studio's exports: a task with its annotations (JSON), or a row with what was chosen (JSON-MIN, CSV)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmkit.data.formats.base import Rows
from llmkit.data.sources import Reader
from llmkit.tasks.shared.lists import unwritten

BESIDE = frozenset({
    "id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "inner_id", "task_id", "agreement"})
"""What JSON-MIN and CSV have beside a task's data and what was said of it."""
KINDS = ("choices", "rating", "number", "taxonomy", "text")
"""What a result can be, where it isn't a part of the text."""


def annotated(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Any]] | None:
    """The data of a task and the annotations that weren't cancelled; None of a row of another form."""
    data, several = row.get("data"), row.get("annotations", row.get("completions"))
    if not isinstance(data, Mapping) or not isinstance(several, list):
        return None
    return data, [one for one in several if isinstance(one, Mapping) and not one.get("was_cancelled")]


@dataclass
class Chosen:
    """Tasks whose annotations are choices, and what became of them."""

    counts: Counter[str] = field(default_factory=Counter)

    def row(self, row: Mapping[str, Any], answered: bool) -> dict[str, Any] | None:
        """A row with its data and what was chosen; of several annotators, the first counts.

        {"data": {"text": "Good"}, "annotations": [{"result": [{"from_name": "mood", "value": {"choices": ["glad"]}}]}]}
            ->  {"text": "Good", "label": "glad"}

        Where a task has several questions, each is a column by its name. None where nobody answered, and answers are
        wanted; a row of another form as it is.
        """
        found = annotated(row)
        if found is None:
            return dict(row)
        data, several = found
        rest = {name: value for name, value in row.items()
                if name not in ("data", "annotations", "completions", "predictions") and name not in data}
        said = [answers(one.get("result")) for one in several]
        said = [one for one in said if one]
        self.counts["tasks"] += 1
        if not said:
            self.counts["unanswered"] += answered
            return None if answered else {**rest, **data}
        self.counts["several"] += len(said) > 1 and any(one != said[0] for one in said)
        one = said[0]
        if len(one) == 1 and "label" not in data:
            one = {"label": next(iter(one.values()))}
        return {**rest, **data, **one}

    def note(self, name: str) -> str | None:
        """What was found, and what was left out, in words, with numbers; None where no row is a task."""
        counts = self.counts
        if not counts["tasks"]:
            return None
        said = [f"{name}: an export of Label Studio, {counts['tasks']:,} tasks"]
        if counts["unanswered"]:
            said.append(f"{counts['unanswered']:,} that nobody labelled are left out")
        if counts["several"]:
            said.append(f"of {counts['several']:,} annotators disagree, and the first counts")
        return "; ".join(said)


def rows(reader: Reader, answered: bool) -> Rows:
    """The rows of a source, tasks of Label Studio with their data and what was chosen beside each other.

    Where some have several labels, each has a list of them.
    """
    chosen, listed = Chosen(), dict[str, bool]()
    for row, place in reader.rows():
        found = chosen.row(row, answered)
        if found is None:
            continue
        column = "label" if annotated(row) is not None else label_column(row)
        if column in found and answered:
            if column not in listed:
                listed[column] = _some_lists(reader, column)
            if listed[column]:
                value = _several_chosen(found[column])
                found[column] = value if isinstance(value, list) else [value]
        yield found, place
    note = chosen.note(reader.name)
    if note is not None and note not in reader.notes:
        reader.notes.append(note)


def _some_lists(reader: Reader, column: str) -> bool:
    """Whether some row has several labels; rows that come once aren't asked."""
    if reader.origin is not None and reader.origin.kind == "held":
        return False
    aside, chosen = replace(reader, bad={}, notes=[]), Chosen()
    found = (chosen.row(row, True) for row, _ in aside.rows())
    return any(isinstance(_several_chosen(row.get(column)), list) for row in found if row is not None)


def answers(result: Any) -> dict[str, Any]:
    """What an annotation says, by the name of its question: {"mood": "glad", "topics": ["a", "b"], "stars": 4}."""
    found: dict[str, Any] = {}
    for one in result if isinstance(result, list) else []:
        value = one.get("value") if isinstance(one, Mapping) else None
        kind = next((kind for kind in KINDS if isinstance(value, Mapping) and kind in value), None)
        if kind is not None and not {"start", "end"} <= value.keys():  # type: ignore[union-attr]  # a Mapping
            found[str(one.get("from_name", kind))] = _plain(value[kind])  # type: ignore[index]
    return found


def _plain(value: Any) -> Any:
    """What was chosen: a text, or a list of several; of a taxonomy, the way to it."""
    if isinstance(value, list) and any(isinstance(one, list) for one in value):
        value = [" / ".join(map(str, one)) if isinstance(one, list) else one for one in value]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def label_column(row: Mapping[Any, Any]) -> str | None:
    """Which column of a row of JSON-MIN or CSV is what was chosen; None where it is another row, or more than one.

    {"text": "Good", "id": 1, "mood": "glad", "annotator": 1, "annotation_id": 1, "lead_time": 2.5}  ->  "mood"
    """
    names = list(map(str, row))
    if not {"id", "annotation_id"} <= set(names) or not {"annotator", "lead_time", "created_at"} & set(names):
        return None
    several = [name for name in names if isinstance(row[name], Mapping) and set(row[name]) == {"choices"}]
    between = [name for name in names[names.index("id") + 1 :] if name not in BESIDE]
    own = several or between
    return own[0] if len(own) == 1 else None


def _several_chosen(value: Any) -> Any:
    """{"choices": ["a", "b"]}, or its JSON in a cell, as the list of these; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith('{"choices"'):
        value = unwritten(value) or value
    chosen = isinstance(value, Mapping) and set(value) == {"choices"} and isinstance(value["choices"], Sequence)
    return list(value["choices"]) if chosen else value
