"""The choices of a question, each a row of its own, which compete: what hides in one of them, or in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Spot(NamedTuple):
    """Where a token stands in what was asked; one of the question stands in the row of every choice."""

    choice: int
    """Whose it is; -1 of the question and its context, which all choices have."""
    text: int
    """The first or the second text of its row."""
    start: int
    stop: int


@dataclass(frozen=True)
class Choices:
    """The rows of a question's choices, one each."""

    names: tuple[str, ...]
    rows: tuple[Mapping[str, Tensor], ...]
    """(1, tokens) each; none is padded."""
    spots: tuple[tuple[Spot | None, ...], ...]
    """Of each token of each row; None of special ones."""
    pad: int
    """What stands behind shorter rows."""

    @property
    def together(self) -> dict[str, Tensor]:
        """All rows as they are: (choices, longest)."""
        return self.hidden([()], None)

    @property
    def size(self) -> int:
        """Positions of all rows together."""
        return len(self.rows) * max(row["input_ids"].shape[1] for row in self.rows)

    def others(self, chosen: int) -> list[tuple[int, int]]:
        """(row, place) of the tokens that only other choices have."""
        return [(row, place) for row, some in enumerate(self.spots) for place, spot in enumerate(some)
                if row != chosen and spot is not None and spot.choice == row]

    def same(self, spot: Spot) -> list[tuple[int, int]]:
        """(row, place) of a token in each row that has it."""
        return [(row, some.index(spot)) for row, some in enumerate(self.spots) if spot in some]

    def hidden(self, variants: Sequence[Iterable[Spot]], mask: int | None) -> dict[str, Tensor]:
        """All rows once for each variant, some of their tokens hidden: (variants x choices, longest).

        mask   what stands for a token that is hidden; None takes it away
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        columns: dict[str, list[Tensor]] = {name: [] for name in self.rows[0]}
        for variant in variants:
            gone = set(variant)
            for row, spots in zip(self.rows, self.spots, strict=True):
                there = torch.tensor([spot is None or spot not in gone for spot in spots],
                                     device=row["input_ids"].device)
                for name, tensor in row.items():
                    if mask is None:
                        columns[name].append(tensor[0][there])
                    else:
                        hides = name == "input_ids"
                        columns[name].append(torch.where(there, tensor[0], mask) if hides else tensor[0])
        return {name: pad_sequence(some, batch_first=True, padding_value=self.pad if name == "input_ids" else 0)
                for name, some in columns.items()}
