"""The answers of an evaluation on a page: which labels were taken for which, by label, by length, the worst errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmkit.figures import markup
from llmkit.figures.markup import Html, tag

HEADS = {"f1": "F1", "tokens": "tokens of the text", "error": "mean squared error",
         "chance": "chance of the right answer"}
"""What columns are called whose name isn't plain."""


def answered(found: Mapping[str, Any]) -> Iterator[Html]:
    """The parts of an answers event of samples.jsonl; nothing where a run left none."""
    if not found:
        return
    yield tag("h3", f"The answers to {int(found.get('rows', 0)):,} validation rows, after step {int(found['step']):,}")
    if confusion := found.get("confusion"):
        yield markup.shades(found["labels"], confusion, "Rows by what they are (down) and what was said (across); the "
                            "darker a cell, the larger its share of its row.")
    for part, title in (("confused", "Labels that were taken for others most often"), ("by_label", "By label"),
                        ("by_length", "By length"), ("worst", "The errors with the largest loss")):
        if rows := found.get(part):
            yield tag("h3", title)
            names = list(rows[0])
            yield markup.table([HEADS.get(name, name) for name in names],
                               [[row.get(name) for name in names] for row in rows])
    if "worst" in found and not found["worst"]:
        yield tag("p", "Every answer is right.")
