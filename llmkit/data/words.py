"""Where words start among tokens: as the tokenizer cuts a text, or as jieba does (Chinese)."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.tokenizer_files import rows_for
from llmkit.system import cache
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

KANA, IDEOGRAPH = re.compile("[\u3041-\u30fa]"), re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
WORD = 1 << 31
"""The bit of a marked token id (uint32) that says: a word starts here."""


def bare(ids: NDArray[Any]) -> NDArray[Any]:
    """Ids without marks."""
    return ids & (WORD - 1) if ids.dtype.itemsize > 2 else ids


def mark(ids: Sequence[int] | NDArray[Any], starts: Sequence[bool] | NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Ids whose highest bit says where words start."""
    high = np.asarray(starts, np.bool_).astype(np.uint32) * np.uint32(WORD)
    return np.asarray(ids, np.uint32) | high


def check(segmenter: str) -> None:
    """Raise RequestError where the package of a segmenter isn't installed."""
    if segmenter == "jieba":
        _jieba()


def encode_words(tokenizer: PreTrainedTokenizerBase, texts: list[str], segmenter: str) -> list[NDArray[np.uint32]]:
    """Token ids of each text, without special tokens, with the starts of words marked.

    `tokenizer`: what the tokenizer splits before it looks into words; for byte-level BPE and SentencePiece also where a
    piece brings its space along, for some of them take a whole sentence for one word. `jieba`: Chinese words, and in
    other scripts what stands between spaces and punctuation.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RequestError(f"whole_word: {type(tokenizer).__name__} doesn't tell which tokens are a word; it needs a "
                           "fast tokenizer.")
    backend.no_truncation()
    backend.no_padding()
    if segmenter == "jieba":
        cut = _cutter()
        encodings = backend.encode_batch(texts, add_special_tokens=False)
        return [mark(encoding.ids, word_starts(encoding.offsets, text, [word for word, *_ in cut.tokenize(text)]))
                for encoding, text in zip(encodings, texts, strict=True)]
    opens = spaced(tokenizer)
    marked = []
    for encoding in backend.encode_batch(texts, add_special_tokens=False):  # encode_batch_fast knows no words
        ids = np.array(encoding.ids, np.uint32)
        words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
        starts = np.ones(len(ids), np.bool_)
        starts[1:] = words[1:] != words[:-1]
        marked.append(mark(ids, starts | opens[ids]))
    return marked


def spaced(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """Of each id, whether its piece starts with a space: ▁the of SentencePiece, Ġthe of byte-level BPE."""
    import json

    before = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"])
    signs = tuple(sign for sign, kind in (("▁", "Metaspace"), ("Ġ", "ByteLevel")) if kind in before)
    opens = np.zeros(rows_for(tokenizer), np.bool_)
    if signs:
        opens[[number for piece, number in tokenizer.get_vocab().items() if piece.startswith(signs)]] = True
    return opens


def chinese(text: str) -> float:
    """The share of a text's letters that are ideographs; 0 where it has kana, and is Japanese."""
    letters = sum(map(str.isalpha, text))
    if letters == 0 or len(KANA.findall(text)) > letters / 20:
        return 0.0
    return len(IDEOGRAPH.findall(text)) / letters


def word_starts(offsets: Sequence[tuple[int, int]], text: str, words: Sequence[str]) -> NDArray[np.bool_]:
    """Which tokens start a word, from the characters that each is made of: where it isn't of the last one's word.

    我 爱 北 京, 我/爱/北京  ->  1 1 1 0
    """
    word_of = np.repeat(np.arange(len(words)), [len(word) for word in words])
    starts = np.ones(len(offsets), np.bool_)
    last = -1
    for i, (first, stop) in enumerate(offsets):
        while first < stop - 1 and text[first].isspace():
            first += 1
        if stop > first:
            starts[i] = word_of[first] != last
            last = word_of[stop - 1]
    return starts


def _jieba() -> Any:
    """The package; RequestError where it isn't installed."""
    try:
        import jieba
    except ModuleNotFoundError as error:
        raise RequestError("objective.segmenter: jieba isn't installed; pip install 'llmkit[chinese]', or "
                           "segmenter: tokenizer.") from error
    jieba.setLogLevel(logging.WARNING)
    return jieba


@lru_cache(maxsize=1)
def _cutter() -> Any:
    """Jieba with its own dictionary, as llmkit's cache has it ready.

    Left to itself, jieba takes the one that anybody has put into the folder of temporary files.
    """
    jieba = _jieba()
    cutter = jieba.Tokenizer()
    with cutter.get_dict_file() as file:
        about = [jieba.__version__, sys.version, hashlib.file_digest(file, "sha256").hexdigest()]

    def make(folder: Path) -> None:
        ready = jieba.Tokenizer()
        ready.tmp_dir = str(folder)
        ready.initialize()

    cutter.tmp_dir = str(cache.once("jieba", hashlib.sha256("\n".join(about).encode()).hexdigest(), make))
    cutter.initialize()
    return cutter
