"""What the fields of a row are called: by the recipe, by their own names, or as the data sets of others call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from llmkit.data.files import Place
from llmkit.system.errors import DataError

if TYPE_CHECKING:
    from llmkit.data.sources import Reader

Column = TypeVar("Column", bound=str | int)

ALIASES: dict[str, tuple[str, ...]] = {
    "text": ("content", "document", "sentence", "body", "article", "passage", "review"),
    "label": ("labels", "class", "category", "target", "sentiment", "topic"),
    "summary": ("highlights", "abstract"),
    "question": ("query",),
    "context": ("passage",),
    "answers": ("answer",),
    "prompt": ("instruction", "input", "question"),
    "response": ("completion", "output", "answer"),
    "source": ("src",),
    "target": ("tgt", "translation"),
    "tokens": ("words",),
    "tags": ("ner_tags", "pos_tags"),
    "sentence1": ("premise", "anchor", "sentence_a"),
    "sentence2": ("hypothesis", "positive", "sentence_b"),
    "score": ("similarity", "rating", "stars"),
    "id": ("idx", "index", "title", "messages", "chosen", "rejected"),
}
"""What fields are called in the data sets that people have; any of these words in a first row makes it a header."""
FIELD_WORDS = frozenset(word for name, others in ALIASES.items() for word in (name, *others))


def find_fields(
    columns: Sequence[Column],
    wanted: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
    reader: Reader,
    place: Place | None = None,
) -> dict[str, Column]:
    """Which column holds which field, by the recipe's `fields`, else the field's own name, else its aliases.

    wanted, optional   field -> other names that it goes by; upper and lower case are one
    place              where the columns were seen, if that is closer than the source

    find_fields(["Review", "stars"], {"text": ["review"], "label": ["stars"]}, {}, reader)
        -> {"text": "Review", "label": "stars"}

    Raises DataError with the columns there are and how to name one in the recipe; optional fields may be absent.
    """
    exact: dict[str | int, Column] = {column: column for column in columns}
    plain = {str(column).strip().casefold(): column for column in reversed(columns)}
    fields = {**wanted, **optional}
    found: dict[str, Column] = {}
    for name in fields:
        asked = reader.source.fields.get(name)
        if asked in exact:
            found[name] = exact[asked]
        elif isinstance(asked, int) and name in exact:
            found[name] = exact[name]  # a column that was numbered in the recipe goes by its field's name
        elif asked is not None:
            near = get_close_matches(str(asked), list(map(str, columns)), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{place or reader.name}: no column is called {asked!r}; there is {listed(columns)}.{hint}")
    for name in fields:
        if name not in found and name in plain and plain[name] not in found.values():
            found[name] = plain[name]
    for name, aliases in fields.items():
        if name not in found:
            free = (plain[alias.casefold()] for alias in aliases if alias.casefold() in plain)
            column = next((column for column in free if column not in found.values()), None)
            if column is not None:
                found[name] = column
            elif name in wanted:
                near = [match for word in (name, *aliases) for match in get_close_matches(word, list(plain), n=1)]
                others = (column for column in columns if column not in found.values())
                meant = plain[near[0]] if near else next(others, "COLUMN")
                raise DataError(
                    f"{place or reader.name}: no column is called {' or '.join(map(repr, (name, *aliases)))}; there is "
                    f"{listed(columns)}. {_way_out(reader, name, meant)}")
    return {name: found[name] for name in fields if name in found}


def _way_out(reader: Reader, name: str, meant: str | int) -> str:
    if reader.origin is not None and reader.origin.kind == "memory":
        return f"Rename it in the rows: {meant!r} to {name!r}."
    return f"Name it in the recipe: data.train: {{source: {reader.label}, fields: {{{name}: {meant}}}}}."


def shown(value: Any) -> str:
    """A value in the words of JSON, for an error: `a number (7)`."""
    if value is None:
        return "null"
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return f"{kinds.get(type(value), type(value).__name__)} ({str(value)[:40]})"


def listed(columns: Sequence[str | int] | Mapping[str, Any]) -> str:
    """Columns in a row, for an error; `none` where there is none."""
    return ", ".join(map(str, columns)) or "none"
