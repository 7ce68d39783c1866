"""Tokens as a person reads them: `film` for `Ġfilm`, `ing` for `##ing`, bytes where a token is no whole character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmkit.inference.writing.token_bytes import bytes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACES = ("Ġ", "▁")
"""How byte-level BPE and SentencePiece write that a space stands before a token."""


@dataclass(frozen=True)
class ShownToken:
    """A token of a text."""

    id: int | None
    """None of a virtual token, which no vocabulary has."""
    text: str
    gap: bool = True
    """Whether a space stands before it."""
    special: bool = False
    """Whether it is no part of the text: [CLS], </s>, a virtual token."""


def shown(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[ShownToken, ...]:
    """Each id as a person reads it.

    [CLS] un ##seen Ġ好 -> [CLS], un, seen (no space before it), 好; a third of a Chinese character: <e4>
    """
    special, given = set(tokenizer.all_special_ids), bytes_of(tokenizer)
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        special.discard(tokenizer.unk_token_id)  # a word of the text, if not one that is known
    out = []
    for number in ids:
        name = str(tokenizer.convert_ids_to_tokens(number))
        if number in special:
            out.append(ShownToken(number, name, special=True))
            continue
        raw = given(number)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = "".join(f"<{byte:02x}>" for byte in raw)
        inside = name.startswith("##") and len(name) > 2
        text = text.removeprefix("##") if inside else text
        gap = not inside and (name.startswith(SPACES) or text.startswith(" ") or _spaced(tokenizer))
        out.append(ShownToken(number, text.strip(" ").replace("\n", "⏎").strip() or "␣", gap))
    return tuple(out)


def _spaced(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every token that doesn't go on with a word starts one: WordPiece, and tokens that are words."""
    from tokenizers.models import WordLevel, WordPiece

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and isinstance(backend.model, WordLevel | WordPiece)


def virtual(count: int, what: str = "virtual") -> tuple[ShownToken, ...]:
    """Tokens that a tuning method put in: `virtual 0` …"""
    return tuple(ShownToken(None, f"{what} {i}", special=True) for i in range(count))


def single(word: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that a word may be meant by, where it is one token: `cat` is `cat` and `Ġcat`; empty where it is none."""
    known = tokenizer.get_vocab()
    found = [known[name] for name in (word, *(space + word for space in SPACES)) if name in known]
    for text in (word, f" {word}"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found += ids if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else []
    return list(dict.fromkeys(found))
