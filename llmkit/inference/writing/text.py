"""One text while it is written: what ends it, and what of it can be told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from llmkit.inference.writing.completion import Completion, decoded, scored
from llmkit.inference.writing.pieces import Pieces, UnfinishedSentence, anchor
from llmkit.inference.writing.sampling import Chance, Choosing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmkit.inference.constraining.constraint import Constraint


class WrittenText:
    """One text while it is written: knows what ends it, and hands on its characters once they are whole."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], ends: Collection[int], room: int,
        send: Callable[[str], None] | None = None, *, how: Choosing = Choosing(),  # noqa: B008
        chance: Chance | None = None, top: int | None = None, prompt: Sequence[int] = (),
        quotes: bool = False, constraint: Constraint | None = None, whole_sentences: bool = False,
        after: Sequence[int] = (),
    ) -> None:
        """`send` gets its pieces; `how` and `chance` choose its tokens.

        whole_sentences  `send` gets nothing behind the last whole sentence of a text that its room cuts
        top      so many of the likeliest tokens are known at each place, beside the one that was chosen; None: neither
        prompt   the ids before it, for what looks at tokens that were there already
        quotes   these may come again, without a penalty
        after    the prompt's ids where the text goes on with them, and begins with a space where the next word does
        constraint   the form that it must have
        """
        self.tokenizer, self.stop, self.ends, self.room, self.send = tokenizer, stop, ends, room, send
        self.how, self.chance, self.top, self.prompt, self.quotes = how, chance, top, prompt, quotes
        self.constraint = constraint
        self.after = anchor(tokenizer, after) if after else []
        self.ids: list[int] = []
        self.last = -1
        """The token that came last, be it one that ends the text."""
        self.logprobs: list[float] = []
        self.likeliest: list[list[tuple[int, float]]] = []
        self.reason = ""
        """Why it ended; empty while it is written."""
        self.cut: int | None = None
        """Characters before a stop string."""
        self.pieces = Pieces(tokenizer, stop, self.after) if stop or send is not None else None
        """Where nobody looks at a text before its end, it is decoded there, at once."""
        self.holding = UnfinishedSentence() if whole_sentences and send is not None else None

    def add(self, token: int, logprob: float | None = None, likeliest: Sequence[tuple[int, float]] = ()) -> None:
        """The next token."""
        self.last = token
        if token in self.ends:
            self.close("stop")
            return
        self.ids.append(token)
        if self.constraint is not None:
            self.constraint.take(token)
        if logprob is not None:
            self.logprobs.append(logprob)
            self.likeliest.append(list(likeliest))
        piece = "" if self.pieces is None else self.pieces.add(token)
        if self.pieces is not None and self.pieces.stopped:
            text = self._read(self.ids)  # bytes that are no character may read otherwise all together
            self.cut = min((text.find(stop) for stop in self.stop if stop in text), default=self.pieces.told)
            self.close("stop", piece)
        elif self.constraint is not None and self.constraint.whole:
            self.close("stop", piece)
        elif len(self.ids) >= self.room:
            self.close("length", piece)
        else:
            self._hand_on(piece)

    def close(self, reason: str, piece: str = "") -> None:
        """Nothing follows any more; `piece` is what wasn't handed on."""
        self.reason = self.reason or reason
        self._hand_on(piece + ("" if self.pieces is None else self.pieces.end()))

        if self.holding is not None and self.send is not None and (rest := self.holding.end(self.reason == "length")):
            self.send(rest)

    def _hand_on(self, piece: str) -> None:
        if self.holding is not None:
            piece = self.holding.add(piece, self.room - len(self.ids))
        if piece and self.send is not None:
            self.send(piece)

    def ended(self, row: list[int]) -> bool:
        """Whether it has ended, whatever the row says."""
        return bool(self.reason)

    def ends_in(self, row: list[int], start: int) -> bool:
        """Whether a stop string stands at the end of a row, which has the prompt before `start`."""
        if not self.stop:
            return False
        longest = max(len(stop.encode()) for stop in self.stop)  # a token has a byte at least
        first = max(start, len(row) - longest - 1)
        text = self._read(row[first:]) if first == start else decoded(self.tokenizer, row[first:])
        return any(stop in text for stop in self.stop)

    def _read(self, ids: Sequence[int]) -> str:
        """The text of its first tokens, behind what it goes on with."""
        before = len(decoded(self.tokenizer, self.after)) if self.after else 0
        return decoded(self.tokenizer, [*self.after, *ids])[before:]

    @property
    def offset(self) -> int:
        """Characters before the token that came last, without one that it is a part of; while it is told in pieces."""
        wholes = [] if self.pieces is None else self.pieces.wholes
        return wholes[len(self.ids) - 2] if 2 <= len(self.ids) <= len(wholes) + 1 else 0

    def _offsets(self) -> list[int]:
        """Where each token's first character stands."""
        pieces = self.pieces
        if pieces is None:
            pieces = Pieces(self.tokenizer, after=self.after)
            for token in self.ids:
                pieces.add(token)
        return [0, *pieces.wholes]

    def completion(self, with_logprobs: bool) -> Completion:
        """What was written, with the log probability of each token where that is asked for."""
        text = self._read(self.ids)[: self.cut]
        kept = len(self.ids)
        if self.cut is not None and self.pieces is not None:
            before = [0, *self.pieces.lengths]  # characters before each token
            while kept and before[kept - 1] >= self.cut:
                kept -= 1  # tokens of which nothing is left
        mean = sum(self.logprobs[:kept]) / kept if kept else None
        each = None
        if with_logprobs:
            each = tuple(
                scored(self.tokenizer, token, logprob, likeliest, offset) for token, logprob, likeliest, offset
                in zip(self.ids[:kept], self.logprobs, self.likeliest, self._offsets(), strict=False))
        return Completion(text, kept, self.reason, mean, each, tuple(self.ids[:kept]))
