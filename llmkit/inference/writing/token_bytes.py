"""The bytes of a token: of a character that several tokens make up, each has some of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmkit.inference.writing.completion import decoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece writes a byte for which it has no piece."""


def bytes_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], bytes]:
    """What gives a token's bytes; those of its text where the tokenizer knows characters only."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    kinds = set() if decoder is None else _kinds(json.loads(decoder.__getstate__()))
    alphabet = bytes_to_unicode() if "ByteLevel" in kinds else {}  # type: ignore[no-untyped-call]
    letters = {letter: byte for byte, letter in alphabet.items()}
    added = tokenizer.get_added_vocab() if letters else {}

    def given(token: int) -> bytes:
        name = str(tokenizer.convert_ids_to_tokens(token))
        if letters and name not in added and all(letter in letters for letter in name):
            return bytes(letters[letter] for letter in name)
        if "ByteFallback" in kinds and (found := BYTE.fullmatch(name)):
            return bytes([int(found[1], 16)])
        return decoded(tokenizer, [token], False).encode(errors="replace")

    return given


def _kinds(decoder: dict[str, Any]) -> set[str]:
    """The names of a decoder and of those inside it."""
    return {str(decoder.get("type")), *(kind for one in decoder.get("decoders", ()) for kind in _kinds(one))}
