"""The answers of an evaluation on a page: which labels were taken for which, by label, by length, the worst errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmkit.figures import markup
from llmkit.figures.curves import is_number
from llmkit.figures.markup import Html, tag

HEADS = {"f1": "F1", "tokens": "tokens of the text", "error": "mean squared error",
         "chance": "chance of the right answer"}
"""What columns are called whose name isn't plain."""


def _is_table(rows: Any) -> bool:
    """Rows with the same columns."""
    return isinstance(rows, list) and all(isinstance(row, dict) and list(row) == list(rows[0]) for row in rows)


def _is_confusion(found: Mapping[str, Any]) -> bool:
    """A square of numbers, with a label a side."""
    labels, rows = found.get("labels"), found.get("confusion")
    return isinstance(labels, list) and isinstance(rows, list) and len(rows) == len(labels) and all(
        isinstance(row, list) and len(row) == len(labels) and all(is_number(value) for value in row) for row in rows)


def odd_parts(found: Mapping[str, Any]) -> list[str]:
    """Parts that are of another kind than llmkit writes."""
    tables = [part for part in ("confused", "by_label", "by_length", "worst")
              if found.get(part) is not None and not _is_table(found[part])]
    return [*(["confusion"] if found.get("confusion") and not _is_confusion(found) else []), *tables]


def answered(found: Mapping[str, Any], say: Callable[[str], str]) -> Iterator[Html]:
    """The parts of an answers event of samples.jsonl; nothing where a run left none."""
    if not found:
        return
    rows = found.get("rows")
    many = f"{rows:,} validation rows" if isinstance(rows, int) else "validation rows"
    yield tag("h3", say(f"The answers to {many}, after step {int(found['step']):,}"))
    if odd := odd_parts(found):
        yield tag("p", f"{', '.join(odd)}: ", say("of another kind than llmkit writes, and not shown."), class_="warn")
        found = {name: value for name, value in found.items() if name not in odd}
    if confusion := found.get("confusion"):
        yield markup.shades(found["labels"], confusion, say(
            "Rows by what they are (down) and what was said (across); the darker a cell, the larger its share of its "
            "row."))
    for part, title in (("confused", "Labels that were taken for others most often"), ("by_label", "By label"),
                        ("by_length", "By length"), ("worst", "The errors with the largest loss")):
        if rows := found.get(part):
            yield tag("h3", say(title))
            names = list(rows[0])
            yield markup.table([say(HEADS[name]) if name in HEADS else name for name in names],
                               [[row.get(name) for name in names] for row in rows])
    if "worst" in found and not found["worst"]:
        yield tag("p", say("Every answer is right."))
