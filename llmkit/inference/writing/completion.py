"""What a model wrote: a text, why it ended, and how likely its tokens were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmkit.data.encoder import text_of
from llmkit.data.sentences import whole_until

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Scored:
    """A token and its log probability (natural logarithm) under the model, before any option changed it."""

    token: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()
    """What else could have stood here, the likeliest first."""
    raw: bytes = b""
    """The token's own bytes: of a character that several tokens make up, its part."""
    likeliest_raw: tuple[bytes, ...] = ()
    """The same of the likeliest ones."""
    offset: int = 0
    """Where its first character stands in the text."""

    def as_json(self) -> dict[str, Any]:
        """`{"token": …, "logprob": …, "top": [{"token": …, "logprob": …}]}`."""
        top = [{"token": token, "logprob": logprob} for token, logprob in self.likeliest]
        return {"token": self.token, "logprob": self.logprob, **({"top": top} if top else {})}


@dataclass(frozen=True)
class Completion:
    """One text that the model wrote."""

    text: str
    tokens: int
    """Tokens of the text, the end token not counted."""
    finish_reason: str
    """`stop`: the model ended it, or a stop string did; `length`: it was cut; `stopped`: whoever asked ended it."""
    score: float | None = None
    """Mean log probability a token (natural logarithm) under the model, before options changed it; None: no token."""
    logprobs: tuple[Scored, ...] | None = None
    """The same of each token, where it was asked for."""
    ids: tuple[int, ...] = ()
    """The tokens of the text."""

    @property
    def whole(self) -> str:
        """The text up to its last whole sentence, where the limit on its tokens cut it; else all of it."""
        return self.text[: whole_until(self.text)] if self.finish_reason == "length" else self.text

    def as_json(self) -> dict[str, Any]:
        """`{"text": …, "tokens": …, "finish_reason": …, "score": …}`, and `logprobs` where they were asked for.

        Where the limit cut a sentence, `"cut": true` too, and `whole_until`: its last whole sentence ends behind so
        many characters.
        """
        told: dict[str, Any] = {
            "text": self.text, "tokens": self.tokens, "finish_reason": self.finish_reason, "score": self.score}
        if (whole := len(self.whole)) < len(self.text.rstrip()):
            told |= {"cut": True, "whole_until": whole}
        if self.logprobs is not None:
            told["logprobs"] = [one.as_json() for one in self.logprobs]
        return told


def scored(
    tokenizer: PreTrainedTokenizerBase, token: int, logprob: float, likeliest: Sequence[tuple[int, float]],
    offset: int = 0,
) -> Scored:
    """A token and the likeliest ones, by what they read as."""
    from llmkit.inference.writing.token_bytes import bytes_of

    raw = bytes_of(tokenizer)
    return Scored(decoded(tokenizer, [token], False), logprob,
                  tuple((decoded(tokenizer, [one], False), other) for one, other in likeliest), raw(token),
                  tuple(raw(one) for one, _ in likeliest), offset)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skip: bool = True) -> str:
    """The text of ids, without tokens that stand for no text unless `skip` is false."""
    return text_of(tokenizer, ids, skip)
