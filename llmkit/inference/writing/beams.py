"""Beams and assistants: transformers' own search, watched and ended by what our texts say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from llmkit.inference.writing.text import Text


class Until:
    """Tells transformers which rows have ended: by what they are, and all of them once `stopped` says so."""

    def __init__(self, ended: Callable[[list[int]], bool], stopped: Callable[[], bool] | None) -> None:
        self.ended, self.ask, self.stopped = ended, stopped, False

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(batch, length) -> (batch)"""
        import torch

        self.stopped = self.stopped or (self.ask is not None and self.ask())
        return torch.tensor([self.stopped or self.ended(row) for row in ids.tolist()], device=ids.device)


class Feed:
    """What transformers calls with each new token of a single text."""

    def __init__(self, text: Text) -> None:
        self.text, self.prompted = text, False

    def put(self, value: Tensor) -> None:
        """The prompt comes first."""
        for token in value.flatten().tolist() if self.prompted else ():
            if not self.text.reason:
                self.text.add(token)
        self.prompted = True

    def end(self) -> None:
        """Why it ended, only the caller knows."""
