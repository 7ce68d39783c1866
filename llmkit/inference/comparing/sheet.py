"""Ways of doing the same thing side by side: a table, a page and a plot of what each reached and cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.figures import paper
from llmkit.objectives.base import more_is_better
from llmkit.system.errors import PlaceError

LONG = 24
"""Letters of a name that the plot has room for beside its points."""


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
        """The table as words, its head first."""
        table = [[self.kind, self.metric, *self.columns]]
        empty = [""] * len(self.columns)
        for row in self.rows:
            if not row["runs"]:
                table.append([row[self.kind], f"failed: {row['error']}" if row["failed"] else "not yet", *empty])
                continue
            lost = f", {row['failed']} failed" if row["failed"] else ""
            lost += f", below {under}" if (under := self.under(row)) else ""
            table.append([row[self.kind], f"{figure(row)}{lost}", *(show(row) for show in self.columns.values())])
        return [*table, *([f"floor: {what}", f"{value:.4f}", *empty] for what, value in self.floors.items())]

    def under(self, row: Mapping[str, Any]) -> str | None:
        """The best of the floors that a row doesn't reach; None where there is none."""
        mean = rank(self.metric, row["mean"])
        above = [(rank(self.metric, value), what) for what, value in self.floors.items()
                 if rank(self.metric, value) > mean]
        return max(above)[1] if above else None

    def markdown(self) -> str:
        """The table for a document."""
        head, *rest = ([cell.replace("|", "\\|") for cell in row] for row in self.cells())
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
        table = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([f"**{self.title}**", "", *table, "", self.about, ""])

    def write(self, folder: Path, name: str, document: Mapping[str, Any]) -> None:
        """Leave NAME.json, NAME.md and NAME.png in a folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
            (folder / f"{name}.md").write_text(self.markdown(), encoding="utf-8")
            if any(row["runs"] for row in self.rows):
                self.plot(folder / f"{name}.png")
        except OSError as error:
            raise PlaceError(f"{folder}: {error.strerror}.") from error

    def plot(self, path: Path) -> None:
        """The metric of each with its spread, and against what it costs; the best floor as a line."""
        rows = [row for row in self.rows if row["runs"]]
        field, axis, scale = self.cost
        figure = paper.sheet(11, 0.6 + 0.45 * max(6, len(rows)))
        left, right = figure.subplots(1, 2)
        places = range(len(rows) - 1, -1, -1)
        # names that are too long to stand in the plot have a number there
        long = max(len(row[self.kind]) for row in rows) > LONG
        names = [f"{row[self.kind]}  [{i}]" if long else row[self.kind] for i, row in enumerate(rows, 1)]
        for place, row in zip(places, rows, strict=True):
            left.plot([row["lowest"], row["highest"]], [place, place], color="tab:blue", linewidth=3, alpha=0.4)
            left.plot(row["values"], [place] * row["runs"], "|", color="tab:blue", markersize=9)
            left.plot(row["mean"], place, "o", color="tab:blue")
            right.errorbar(row[field], row["mean"], fmt="o", color="tab:blue",
                           yerr=[[row["mean"] - row["lowest"]], [row["highest"] - row["mean"]]], capsize=3)
            number = len(rows) - place
            right.annotate(f"[{number}]" if long else row[self.kind], (row[field], row["mean"]), fontsize=9,
                           textcoords="offset points", xytext=(6, 4 if place % 2 else -11))
        left.set_yticks(list(places), names)
        left.set_ylim(-0.6, len(rows) - 0.4)
        left.set_xlabel(self.metric)
        right.set(xscale=scale, xlabel=axis, ylabel=self.metric)
        right.margins(x=0.18)
        # the highest floor counts; one far below would leave no room for what is compared
        best = sorted(self.floors.items(), key=lambda floor: rank(self.metric, floor[1]))[-1:]
        for what, value in best:
            left.axvline(value, linestyle="--", color="gray", linewidth=1)
            right.axhline(value, linestyle="--", color="gray", linewidth=1)
            right.annotate(f"floor: {what}", (0.01, value), xycoords=("axes fraction", "data"), fontsize=8,
                           color="gray", va="bottom")
        figure.suptitle(self.title)
        paper.save(figure, path)


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
    many = seeds > 1
    return (f"{metric} on the validation rows, mean{' (lowest to highest)' if many else ''} of {seeds} "
            f"seed{'s' if many else ''}.")
