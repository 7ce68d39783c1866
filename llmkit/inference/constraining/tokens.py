"""A tokenizer's tokens as the bytes that they add to a text: what a grammar is matched with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmkit.inference.writing.token_bytes import bytes_of
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedTokenizerBase

SPACE = "▁"
"""What SentencePiece writes for a space."""


class ByteTokens:
    """What llguidance asks of a tokenizer: the bytes of each id, which ones are control tokens, and an end."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, end
        self._single = {token: number for number, token in reversed(list(enumerate(tokens))) if len(token) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """Bytes as tokens of one byte, where there are some: only used to look ahead, and not to write."""
        return [self._single[bytes([one])] for one in text if bytes([one]) in self._single]


def readable(tokenizer: PreTrainedTokenizerBase, size: int) -> LLTokenizer:
    """The tokens 0 to size - 1 for llguidance; RequestError where they don't say which bytes they add.

    That is so where the decoder puts spaces between tokens, as WordPiece's does.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    tokens, special = token_bytes(tokenizer, size)
    end = tokenizer.eos_token_id
    if end is None or end >= size:
        end = len(tokens)  # one that the model can't write: texts end where nothing can follow
        tokens, special = [*tokens, b""], [*special, end]
    return LLTokenizer(TokenizerWrapper(ByteTokens(tokens, special, end)), eos_token=end)


def token_bytes(tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[list[bytes], list[int]]:
    """(the bytes of each id from 0 on, the ids that stand for no text); an id without a token has none."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    decoder = None if backend is None else backend.decoder
    steps = "" if decoder is None else json.dumps(json.loads(decoder.__getstate__()), ensure_ascii=False)
    if not any(kind in steps for kind in ("ByteLevel", "Metaspace", "ByteFallback", SPACE)):
        raise RequestError("json_schema: this model's tokenizer puts spaces between tokens as it likes, so that no "
                           "text can be held to a form; use one with byte-level BPE or SentencePiece.")
    given, added = bytes_of(tokenizer), tokenizer.added_tokens_decoder
    silent = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    level = "ByteLevel" in steps
    tokens, special = [], []
    for number in range(size):
        name = names.get(number)
        if name is None or number in silent:
            special.append(number)
            tokens.append(b"")
        elif number in added:
            tokens.append(name.encode())
        elif level:
            tokens.append(given(number))
        else:
            raw = given(number) if name.startswith("<0x") and "ByteFallback" in steps else b""
            tokens.append(raw or name.replace(SPACE, " ").encode())
    return tokens, special
