"""The pictures of `llmkit inspect`: which are asked for, where they go, and what a terminal shows instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmkit.system import terminal
from llmkit.system.language import translate

Places = tuple[tuple[str, Path], ...]
"""(html or picture, where it goes)."""


def parts_of(what: str | None, drawn: bool) -> tuple[str, ...]:
    """--what as parts; where nothing is said, all for a picture and rows for a terminal."""
    from llmkit.planning.picturing.drawing import WHAT
    from llmkit.system.errors import RequestError, nearest

    asked = ["all" if drawn else "rows"] if what is None else [part.strip() for part in what.split(",") if part.strip()]
    for part in asked:
        if part not in (*WHAT, "all"):
            raise RequestError(f"--what {part}: can't be shown.{nearest(part, (*WHAT, 'all'))}")
    if not asked:
        raise RequestError(f"--what: say what is to be shown, of {', '.join(WHAT)}, or all.")
    return WHAT if "all" in asked else tuple(part for part in WHAT if part in asked)


def places(html: str | None, output: str | None, theme: str) -> Places:
    """Where a page and a picture go; an error where they can't, before anything is read."""
    from llmkit.data import jsonlines
    from llmkit.figures.paper import check_free
    from llmkit.system.errors import RequestError, nearest

    if theme not in ("light", "dark"):
        raise RequestError(f"--theme {theme}: is neither light nor dark.{nearest(theme, ('light', 'dark'))}")
    found = []
    for value, endings, option in ((html, (".html", ".htm"), "--html"), (output, (".png", ".svg"), "--output")):
        if value is None:
            continue
        if Path(value).suffix.lower() not in endings:
            raise RequestError(f"{option} {value}: its name must end with {' or '.join(endings)}.")
        place = jsonlines.place(value)
        check_free(place)
        found.append((option, place))
    return tuple(found)


def possible(found: Mapping[str, Any], parts: Sequence[str]) -> tuple[str, ...]:
    """Those that rows of this kind have; what can't be drawn of them is said."""
    lacks = {"rows": not any(one["seen"] for one in found["drawn"]),
             "mask": not all("masks" in one for one in found["drawn"])}
    for part in parts:
        if lacks.get(part):
            terminal.err(f"note: {part}: a row of {found['learning']} has several texts, and no picture of one")
    return tuple(part for part in parts if not lacks.get(part))


def leave(found: Mapping[str, Any], parts: Sequence[str], at: Places, theme: str) -> None:
    """Write page and picture."""
    from llmkit.figures import document, paper
    from llmkit.planning.picturing import drawing

    for option, path in at:
        if option == "--html":
            document.write(drawing.page(found, parts), path)
        else:
            drawing.draw(found, parts, path, paper.DARK if theme == "dark" else paper.LIGHT)
        terminal.err(f"{', '.join(parts)}: {path}")


def show(found: Mapping[str, Any], parts: Sequence[str]) -> None:
    """As text: rows in colours, or with signs where there are none, and the rest as lines."""
    from llmkit.figures import tokens as drawn
    from llmkit.planning.picturing import drawing
    from llmkit.planning.picturing.rows import KINDS, batch

    if "rows" in parts and any(one["seen"] for one in found["drawn"]):
        terminal.out(f"\n{translate('what a step is given')}: {drawn.explained(KINDS)}")
        for name, marks in batch(found["drawn"]):
            terminal.say(name)
            drawn.show(marks)
    for line in drawing.lines(found, parts):
        terminal.say(line)
