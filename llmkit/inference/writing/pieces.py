"""Pieces of a text as its tokens come: whole characters only, and nothing of a string that ends the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmkit.data.encoder import certain, sets_apart
from llmkit.data.sentences import sentence_ends, whole_until
from llmkit.inference.writing.completion import decoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a character of several tokens decodes to until the last of them is there."""
LATER = 8
"""Tokens, and characters, after which a token no longer changes how those before it read."""
NEAR = 80
"""Tokens before the limit on a text from which on its last sentence is held back: few are longer."""


class Pieces:
    """Tokens in, text out: `add` gives what can be told by now, `end` the rest.

    Only the last few tokens are decoded again with each new one, so that the cost of a text is linear in its length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        """`after`: what stands before the text that goes on with it, as `anchor` gives it."""
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.stopped = False
        """Whether a stop string came: the text ended before it."""
        self.told = 0
        """Characters that were told."""
        self.lengths: list[int] = []
        """Characters of the whole text as it read after each token, a stop string's too."""
        self.wholes: list[int] = []
        """The same without a character that isn't whole yet."""
        self._cleans, self._silent = cleans(tokenizer), frozenset(tokenizer.all_special_ids)
        self._ids: list[int] = [*after]
        self._start = 0  # tokens from here are decoded together: a word's space may hang on the token before it
        self._settled = len(after)  # tokens before this one read as they do whatever follows
        self._before = len(decoded(tokenizer, after)) if after else 0  # characters of the tokens between the two
        self._length = 0  # characters of all settled tokens
        self._held = ""  # text of settled tokens that wasn't told
        self._tail = ""  # text of the tokens behind them
        self._ahead = 0  # characters of the tail that were told already

    def add(self, token: int) -> str:
        """The text that this token adds; empty while a character isn't whole or a stop string may have begun."""
        if token not in self._silent:
            self._ids.append(token)
            self._tail = decoded(self.tokenizer, self._ids[self._start :])[self._before :]
        self.lengths.append(self._length + len(self._tail))
        self.wholes.append(self._length + len(self._tail.rstrip(UNFINISHED)))
        piece = self._tell(last=False)
        self._settle()
        return piece

    def end(self) -> str:
        """What was held back."""
        return "" if self.stopped else self._tell(last=True)

    def _tell(self, last: bool) -> str:
        """What is certain by now of the text that wasn't told; all of it where nothing follows."""
        text = self._held + self._tail[self._ahead :]
        at = min((text.find(stop) for stop in self.stop if stop in text), default=-1)
        if at >= 0:
            self.stopped, text = True, text[:at]
        elif not last:
            text = text[: self._certain(text)]
        of_tail = max(0, len(text) - len(self._held))
        self._held, self._ahead = self._held[len(text) :], self._ahead + of_tail
        self.told += len(text)
        return text

    def _certain(self, text: str) -> int:
        """How many characters of a text stay as they are, and are no beginning of a stop string."""
        text = text.rstrip(UNFINISHED)
        if self._cleans:  # " n't" and " ," lose their spaces once they are whole
            text = certain(text, self.tokenizer)
        return len(text) - max((begun(text, stop) for stop in self.stop), default=0)

    def _settle(self) -> None:
        """Leave tokens behind that read as they do whatever follows: all, or where that isn't known, the older ones."""
        if not self._cleans and self._tail and not self._tail.endswith(UNFINISHED):
            self._settle_until(len(self._ids), self._tail, "")
        elif len(self._ids) - self._settled >= 2 * LATER:
            until = len(self._ids) - LATER
            text = decoded(self.tokenizer, self._ids[self._start : until])[self._before :]
            rest = decoded(self.tokenizer, self._ids[self._settled :])[self._width(until) :]
            # they are apart only where no character and no cleaned space is partly in both
            if text and text + rest == self._tail and (len(rest) >= LATER or not self._cleans):
                self._settle_until(until, text, rest)

    def _settle_until(self, token: int, text: str, rest: str) -> None:
        self._before = self._width(token)
        self._start, self._settled = self._settled, token
        self._held += text[self._ahead :]
        self._ahead, self._tail = max(0, self._ahead - len(text)), rest
        self._length += len(text)

    def _width(self, token: int) -> int:
        """Characters of the tokens from those that are settled up to another."""
        return len(decoded(self.tokenizer, self._ids[self._settled : token]))


class UnfinishedSentence:
    """Holds back, near the limit on a text, a sentence that may not come to its end; what was told stays.

    Up to `NEAR` tokens before the limit all is told at once. A sentence that had begun before then, and is still not
    whole at the limit, has been told in part.
    """

    def __init__(self) -> None:
        self.text = ""
        self.told = 0
        """Characters that were told."""

    def add(self, piece: str, left: int) -> str:
        """What of the text can be told, now that a piece came and so many tokens are left."""
        self.text += piece
        return self._tell(len(self.text) if left > NEAR else max(sentence_ends(self.text, last=False), default=0))

    def end(self, cut: bool) -> str:
        """What is still to be told: whole sentences where the limit cut it, all where it ended otherwise."""
        return self._tell(whole_until(self.text) if cut else len(self.text))

    def _tell(self, until: int) -> str:
        start, self.told = self.told, max(self.told, until)
        return self.text[start : self.told]


def cleans(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer takes spaces back as it decodes, those before full stops and in "do n't"; BPE's never do."""
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    if not tokenizer.clean_up_tokenization_spaces:
        return False
    bytewise = isinstance(tokenizer, PreTrainedTokenizerFast) and isinstance(tokenizer.backend_tokenizer.model, BPE)
    return not bytewise or bool(tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output)


def anchor(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> list[int]:
    """The last tokens of a prompt, beside which those that go on with it keep their space; [] where there is none.

    SentencePiece's decoders (Llama's, Mistral's) take the space off the first token that they see: "▁time" is "time"
    alone, and " time" behind another. WordPiece writes spaces between all tokens, and the text begins with none.
    """
    last = list(prompt[-4:])
    text = "" if sets_apart(tokenizer) else decoded(tokenizer, last)
    return last if text and not text.endswith(UNFINISHED) else []


def begun(text: str, stop: str) -> int:
    """How many characters of a stop string a text ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
