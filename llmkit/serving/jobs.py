"""Jobs: a prompt whose texts a model's thread writes, and the events that it tells of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmkit.inference.writing.completion import Scored
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.sampling import Choosing

if TYPE_CHECKING:
    from llmkit.inference.constraining.constraint import Constraint


@dataclass(frozen=True)
class Piece:
    """Some more of a text; empty where a token alone gives no character."""

    text: str
    chosen: Scored | None = None
    """The token, where probabilities were asked for: the model's own, before any setting."""


@dataclass(frozen=True)
class End:
    """A text's last event: `stop` (the model or a stop string ended it), `length`, or an `error`."""

    reason: str
    tokens: int
    error: Exception | None = None


NOT_FINITE = "the model's numbers stopped being finite."
Hear = Callable[[int, Piece | End], None]
"""Told of each event of a job's texts, with the text's number; called in the model's thread."""


@dataclass(frozen=True)
class Wish:
    """How the texts of a job are to be written."""

    options: Options
    """As asked; at most as many tokens as there is room for."""
    choosing: Choosing
    """The same over the model's own settings."""
    ends: frozenset[int]
    """Tokens that end a text."""
    stop: tuple[str, ...] = ()
    """Strings that do."""
    rules: Callable[[], Any] | None = None
    """Makes what else the model's own settings do to a text's scores; None: nothing."""
    form: Callable[[], Constraint | None] = lambda: None
    """Makes the form that a text must have; None: any."""
    goes_on: bool = False
    """Whether it goes on with the prompt as it stands."""


@dataclass(eq=False)
class Job:
    """A prompt, and the texts that are to follow it, which depend on the seed and their number alone."""

    prompt: list[int]
    wish: Wish
    seed: int
    count: int
    hear: Hear
    gone: bool = False
    """Set by any thread once nobody listens any more."""
    left: int = field(init=False)
    """Texts that haven't ended."""

    def __post_init__(self) -> None:
        self.left = self.count
