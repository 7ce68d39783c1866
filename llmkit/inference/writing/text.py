"""One text while it is written: what ends it, and what of it can be told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from llmkit.inference.writing.completion import Completion, decoded, scored
from llmkit.inference.writing.pieces import begun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Text:
    """One text while it is written: knows what ends it, and hands on its characters once they are whole."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], ends: Collection[int], room: int,
        send: Callable[[str], None] | None = None,
    ) -> None:
        self.tokenizer, self.stop, self.ends, self.room, self.send = tokenizer, stop, ends, room, send
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.likeliest: list[list[tuple[int, float]]] = []
        self.reason = ""
        """Why it ended; empty while it is written."""
        self.cut: int | None = None
        """Characters before a stop string."""
        self.sent = 0

    def add(self, token: int, logprob: float | None = None, likeliest: Sequence[tuple[int, float]] = ()) -> None:
        """The next token."""
        if token in self.ends:
            self.reason = "stop"
        else:
            self.ids.append(token)
            if logprob is not None:
                self.logprobs.append(logprob)
                self.likeliest.append(list(likeliest))
            if self.stop:
                text = decoded(self.tokenizer, self.ids)
                found = [at for at in map(text.find, self.stop) if at >= 0]
                if found:
                    self.cut, self.reason = min(found), "stop"
            if not self.reason and len(self.ids) >= self.room:
                self.reason = "length"
        if self.send is not None:
            self._hand_on()

    def _hand_on(self) -> None:
        # All is decoded each time, for what a token reads as may depend on the tokens before it.
        text = decoded(self.tokenizer, self.ids)[: self.cut]
        if not self.reason:
            # A character of several tokens decodes to the replacement character until its last one is there.
            text = text.rstrip("\ufffd")
            if self.tokenizer.clean_up_tokenization_spaces:  # " n't" and " ," lose their spaces once they are whole
                text = " ".join(text.split(" ")[:-2])
            text = text[: len(text) - max((begun(text, stop) for stop in self.stop), default=0)]
        if len(text) > self.sent and self.send is not None:
            self.send(text[self.sent:])
            self.sent = len(text)

    def close(self, reason: str) -> None:
        """Nothing follows any more."""
        self.reason = self.reason or reason
        if self.send is not None:
            self._hand_on()

    def ended(self, row: list[int]) -> bool:
        """Whether it has ended, whatever the row says."""
        return bool(self.reason)

    def ends_in(self, row: list[int], start: int) -> bool:
        """Whether a stop string stands at the end of a row, which has the prompt before `start`."""
        if not self.stop:
            return False
        longest = max(len(stop.encode()) for stop in self.stop)  # a token has a byte at least
        return any(stop in decoded(self.tokenizer, row[max(start, len(row) - longest - 1):]) for stop in self.stop)

    def completion(self, asked: bool) -> Completion:
        """What was written; `asked`: with the log probability of each token."""
        text = decoded(self.tokenizer, self.ids)[: self.cut]
        kept = len(self.ids)
        while self.cut is not None and kept and len(decoded(self.tokenizer, self.ids[:kept - 1])) >= self.cut:
            kept -= 1  # tokens of which nothing is left
        mean = sum(self.logprobs[:kept]) / kept if kept else None
        each = None
        if asked:
            each = tuple(
                scored(self.tokenizer, token, logprob, likeliest)
                for token, logprob, likeliest in zip(self.ids[:kept], self.logprobs, self.likeliest, strict=False))
        return Completion(text, kept, self.reason, mean, each, tuple(self.ids[:kept]))
