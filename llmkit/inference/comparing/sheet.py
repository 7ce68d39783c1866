"""Ways of doing the same thing side by side: a table, a page and a plot of what each reached and cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.figures.compared import Comparing, Point, draw
from llmkit.objectives.base import more_is_better
from llmkit.system.errors import PlaceError, RequestError
from llmkit.system.language import translate
from llmkit.system.machine import in_the_way
from llmkit.training.folder.run_folder import put


@dataclass(frozen=True)
class Sheet:
    """What a comparison shows."""

    kind: str
    """What is compared, and what a row calls it by: method, mode."""
    metric: str
    rows: Sequence[Mapping[str, Any]]
    """Of each: its name, runs, failed, error, and where some run was made what `spread` gives."""
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]]
    """Other columns of the table, by their heads."""
    floors: Mapping[str, float]
    """The metric that needs no model, by what reaches it."""
    cost: tuple[str, str, str]
    """What the plot puts the metric against: a row's field, the name of the axis, and its scale."""
    title: str
    about: str
    """A sentence below the table."""

    def cells(self) -> list[list[str]]:
        """The table as words, its head first, in the language that is chosen; names and figures stay."""
        table = [[translate(self.kind), self.metric, *map(translate, self.columns)]]
        empty = [""] * len(self.columns)
        for row in self.rows:
            if not row["runs"]:
                why = translate(f"failed: {row['error']}") if row["failed"] else translate("not yet")
                table.append([row[self.kind], why, *empty])
                continue
            lost = translate(f", {row['failed']} failed") if row["failed"] else ""
            lost += translate(f", below {under}") if (under := self.under(row)) else ""
            table.append([row[self.kind], f"{figure(row)}{lost}", *(show(row) for show in self.columns.values())])
        floor = translate("floor")
        return [*table, *([f"{floor}: {translate(what)}", f"{value:.4f}", *empty]
                          for what, value in self.floors.items())]

    def under(self, row: Mapping[str, Any]) -> str | None:
        """The best of the floors that a row doesn't reach; None where there is none."""
        mean = rank(self.metric, row["mean"])
        above = [(rank(self.metric, value), what) for what, value in self.floors.items()
                 if rank(self.metric, value) > mean]
        return max(above)[1] if above else None

    @property
    def picture(self) -> Comparing:
        """What is drawn of it."""
        field, axis, scale = self.cost
        points = [Point(row[self.kind], row["values"], row[field]) for row in self.rows if row["runs"]]
        return Comparing(self.title, self.metric, axis, scale, points, self.floors)

    def markdown(self) -> str:
        """The table for a document, with the numbers that names have in the picture where it can't show them."""
        head, *rest = ([cell.replace("|", "\\|") for cell in row] for row in self.cells())
        picture, notes = self.picture, []
        if picture.numbered:
            numbers = iter(range(1, len(picture.points) + 1))
            runs = [bool(row["runs"]) for row in self.rows] + [False] * len(self.floors)
            rest = [[f"[{next(numbers)}] {row[0]}" if run else row[0], *row[1:]]
                    for run, row in zip(runs, rest, strict=True)]
            notes = [translate(f"{self.numbering(picture)} The .svg beside it has the names."), ""]
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
        table = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([f"**{translate(self.title)}**", "", *table, "", translate(self.about), "", *notes])

    def numbering(self, picture: Comparing) -> str:
        """Why names are numbers in the picture."""
        if picture.missing:
            return (f"In the .png, names are numbers: no font of this machine has the letters "
                    f"{picture.missing[:20]}{'…' if len(picture.missing) > 20 else ''}.")
        return "In the .png, names are numbers: they are too long to stand in it."

    @staticmethod
    def check(folder: Path, name: str) -> None:
        """PlaceError where no folder can be made, or no comparison wrote a file that `write` leaves."""
        if (found := in_the_way(folder)) is not None:
            raise PlaceError(f"{found[0]}: {found[1]}, and a folder is needed. Choose another --output-dir, or move it "
                             "away.")
        files = [f"{name}.{suffix}" for suffix in ("json", "md", "png", "svg")]
        there = [file for file in files if (folder / file).exists()]
        if there and not _is_ours(folder / files[0]):
            raise PlaceError(f"{folder}: {', '.join(there)} {'is' if len(there) == 1 else 'are'} there, and no "
                             "comparison of llmkit wrote that; choose another --output-dir, or move it away.")

    def write(self, folder: Path, name: str, document: Mapping[str, Any]) -> None:
        """Leave NAME.json, NAME.md, NAME.png and NAME.svg in a folder."""
        try:
            put(folder / f"{name}.json", json.dumps(document, indent=1, ensure_ascii=False))
            put(folder / f"{name}.md", self.markdown())
            if any(row["runs"] for row in self.rows):
                for suffix in ("png", "svg"):
                    draw(self.picture, folder / f"{name}.{suffix}")
        except OSError as error:
            raise PlaceError(f"{folder}: {error.strerror}.") from error


def refuse_folder(named: Container[str]) -> None:
    """RequestError where `--set` names the folder: fields are those of a comparison's runs, which have their own."""
    if "output_dir" in named:
        raise RequestError("--set output_dir: runs of a comparison lie in its own folder; --output-dir names that.")


def _is_ours(path: Path) -> bool:
    """Whether a file is the document of a comparison."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"recipe", "metric", "seeds", "folder"} <= found.keys()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, lowest and highest of some runs."""
    return {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values), "values": list(values)}


def figure(row: Mapping[str, Any]) -> str:
    """A row's metric with its spread: 0.8123 (0.8001 to 0.8245)."""
    return f"{row['mean']:.4f}" + (f" ({row['lowest']:.4f} to {row['highest']:.4f})" if row["runs"] > 1 else "")


def rank(metric: str, value: float) -> float:
    """A figure so that more of it is better."""
    return value if more_is_better(metric) else -value


def of_seeds(metric: str, seeds: int) -> str:
    """What a table's figures are."""
    if seeds == 1:
        return f"{metric} on the validation rows, mean of 1 seed."
    return f"{metric} on the validation rows, mean (lowest to highest) of {seeds} seeds."
