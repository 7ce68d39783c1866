"""word2vec's text form: the embedding of each token as a line, for gensim and what else reads word vectors.

Of a contextual model these are the vectors below its layers: what a token is before its neighbours are looked at. A
token that begins a word is spelled as the word, one that goes on as ##ing, whatever its vocabulary writes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.exporting.card import python
from llmkit.exporting.origin import Provenance
from llmkit.inference.writing.token_bytes import bytes_of
from llmkit.models import Opened
from llmkit.tuning.shared.near_words import plain_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

LIBRARY = "gensim"
DTYPES = ("float32",)
FILE = "vectors.txt"
SPACE, GOES_ON = "▁", "##"
"""What stands for a space in a spelling, and in front of a piece that goes on with a word (WordPiece's own sign)."""
WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
"""Scripts that set no spaces between words: their pieces are spelled as they are."""


def check(config: Mapping[str, Any]) -> None:
    """Every model has embeddings."""


def write(opened: Opened, origin: Provenance, folder: Path, dtype: str | None) -> dict[str, Any]:
    """vectors.txt: how many words and numbers, then a word and its numbers a line, in the order of the ids.

    Special tokens and rows without a token are left out, and counted. Returns {"dtype", "files", "words", "left_out"}.
    """
    model: Any = opened.model
    table = model.get_input_embeddings().weight.detach().float().cpu()
    ids = plain_tokens(opened.tokenizer, len(table))
    with (folder / FILE).open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{len(ids)} {table.shape[1]}\n")
        for number, word in zip(ids, spellings(opened.tokenizer, ids), strict=True):
            file.write(f"{word} {' '.join(f'{value:.9g}' for value in table[number].tolist())}\n")  # 32 bits, exactly
    left = len(table) - len(ids)
    log.info("%s: %s words of %s numbers; left out: %s special tokens and rows without a word", FILE, f"{len(ids):,}",
             f"{table.shape[1]:,}", f"{left:,}")
    return {"dtype": "float32", "files": [FILE], "words": len(ids), "left_out": left}


def spellings(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Iterator[str]:
    """Each token as a word of a file whose words have no space: no two are the same.

    ▁king, Ġking -> king;  ing, ##ing -> ##ing;  ▁, -> ▁,  and  , -> ,;  a part of a character -> <0xE4>
    """
    kinds, given = signs(tokenizer), bytes_of(tokenizer)
    taken: set[str] = set()
    for number in ids:
        name = str(tokenizer.convert_ids_to_tokens(number))
        if "ByteLevel" in kinds:
            try:
                text = given(number).decode()
            except UnicodeDecodeError:
                text = "".join(f"<0x{byte:02X}>" for byte in given(number))
        else:
            text = name.replace(SPACE, " ") if "Metaspace" in kinds else name
        word = spelled(text, apart=bool(kinds & {"ByteLevel", "Metaspace"}))
        while word in taken:  # `king` of a vocabulary that writes ##king too
            word = f"{escaped(name)}|{number}" if word == escaped(name) else escaped(name)
        taken.add(word)
        yield word


def spelled(text: str, apart: bool) -> str:
    """A token's text as a word; `apart`: whether the text begins with a space where a word begins."""
    if apart and text[:1] == " " and begins(text[1:]):
        return escaped(text[1:])
    if apart and begins(text):
        return GOES_ON + escaped(text)
    return escaped(text)


def begins(text: str) -> bool:
    """Whether a text begins with a letter or a digit of a script that sets spaces."""
    return text[:1].isalnum() and WIDE.match(text) is None


def escaped(text: str) -> str:
    r"""Spaces as ▁, other white space and what can't be printed as in Python: \n, \u3000."""
    return "".join(SPACE if letter == " " else letter if letter.isprintable() and not letter.isspace()
                   else letter.encode("unicode_escape").decode() for letter in text)


def signs(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """By which parts a tokenizer tells where words begin: ByteLevel, Metaspace; none of those that write ##."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"Metaspace"} if any(word.startswith(SPACE) for word in tokenizer.get_vocab()) else set()
    said = json.loads(backend.to_str())
    parts = json.dumps([said["pre_tokenizer"], said["decoder"], said["normalizer"]], ensure_ascii=False)
    kinds = {kind for kind in ("ByteLevel", "Metaspace") if f'"{kind}"' in parts}
    return kinds or ({"Metaspace"} if SPACE in parts else set())


def how(opened: Opened, origin: Provenance, folder: Path, at: str) -> str:
    """How gensim opens the file."""
    words = [line.split(" ")[0] for line in (folder / FILE).read_text(encoding="utf-8").splitlines()[1:2000]]
    plain = next((word for word in words[::-1] if word.isalpha() and word.isascii() and len(word) > 2), words[-1])
    return python("from gensim.models import KeyedVectors", "",
                  f'vectors = KeyedVectors.load_word2vec_format("{FILE}")',
                  f"print(vectors.most_similar({plain!r}))")
