"""Where words start among tokens: as the tokenizer cuts a text, or as jieba does (Chinese)."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.tokenizer_files import rows_for
from llmkit.system import cache
from llmkit.system.addresses import at_home
from llmkit.system.errors import DataError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

ATOM = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]"
                  "|[^\\W_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]+|[^\\w\\s]|_")
"""What a phrase is compared by: a word between spaces, an ideograph or a kana, a sign."""
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


@dataclass(frozen=True)
class Phrases:
    """A dictionary of phrases, each of which is taken for one word wherever it stands in a text."""

    path: str
    known: frozenset[tuple[str, ...]]
    """By their atoms: ("New", "York"), ("北", "京")."""
    longest: int
    """Atoms of the longest."""
    digest: str
    """SHA-256 (hex) of the file."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(first, stop) of the phrases in a text, from left to right, the longest first; they don't overlap.

        A phrase in small letters is found however it is written, one with a capital only as it is; a space is as good
        as a line's end. Words are compared whole.
        """
        atoms = [(match[0], *match.span()) for match in ATOM.finditer(text)]
        plain = [atom for atom, *_ in atoms]
        small = [atom.lower() for atom in plain]
        out, i = [], 0
        while i < len(atoms):
            length = next((n for n in range(min(self.longest, len(atoms) - i), 0, -1) if
                           tuple(plain[i : i + n]) in self.known or tuple(small[i : i + n]) in self.known), 0)
            if length:
                out.append((atoms[i][1], atoms[i + length - 1][2]))
            i += length or 1
        return out


def read_phrases(path: str) -> Phrases:
    """A file of phrases, UTF-8, one a line; # begins a comment. DataError, with the line, where it is no such file."""
    place = at_home(path)
    try:
        content = place.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: phrases are read as UTF-8, and this line is none; save the file as UTF-8."
                        ) from error
    except OSError as error:
        raise DataError(f"objective.phrases: {path}: {error.strerror or error}; name a file with one phrase a "
                        "line.") from error
    known = {tuple(ATOM.findall(line.partition("#")[0])) for line in lines} - {()}
    if not known:
        raise DataError(f"{path}: has no phrases; write one a line.")
    return Phrases(path, frozenset(known), max(map(len, known)), hashlib.sha256(content).hexdigest())


def together(
    starts: NDArray[np.bool_], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], text: str,
) -> NDArray[np.bool_]:
    """Starts of words where each span of characters is one word: none begins within it, and one begins behind it.

    A piece that is only the space of the first word (Ġ of Ġ + red) stays with it.

    new | york | is | big, the span of `new york`  ->  new york | is | big
    """
    starts, token = starts.copy(), 0
    for first, stop in spans:
        while token < len(offsets) and offsets[token][1] <= first:
            token += 1
        inside = token
        while token < len(offsets) and offsets[token][0] < stop:
            spaced = not starts[token] and token > 0 and text[slice(*offsets[token - 1])].isspace()
            starts[token] = token == inside and not spaced
            token += 1
        if token < len(offsets):
            starts[token] = True
    return starts


def encode_words(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], segmenter: str, phrases: Phrases | None = None,
    seen: Counter[str] | None = None,
) -> list[NDArray[np.uint32]]:
    """Token ids of each text, without special tokens, with the starts of words marked.

    `tokenizer`: what the tokenizer splits before it looks into words; for byte-level BPE and SentencePiece also where a
    piece brings its space along, for some of them take a whole sentence for one word. `jieba`: Chinese words, and in
    other scripts what stands between spaces and punctuation. Each of the `phrases` is one word; `seen` counts them.
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
        return [mark(encoding.ids, phrased(
            word_starts(encoding.offsets, text, [word for word, *_ in cut.tokenize(text)]), encoding.offsets, text,
            phrases, seen)) for encoding, text in zip(encodings, texts, strict=True)]
    opens = spaced(tokenizer)
    marked = []
    encodings = backend.encode_batch(texts, add_special_tokens=False)  # encode_batch_fast knows no words
    for encoding, text in zip(encodings, texts, strict=True):
        ids = np.array(encoding.ids, np.uint32)
        words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
        starts = np.ones(len(ids), np.bool_)
        starts[1:] = words[1:] != words[:-1]
        marked.append(mark(ids, phrased(starts | opens[ids], encoding.offsets, text, phrases, seen)))
    return marked


def phrased(
    starts: NDArray[np.bool_], offsets: Sequence[tuple[int, int]], text: str, phrases: Phrases | None,
    seen: Counter[str] | None,
) -> NDArray[np.bool_]:
    """Starts of words where each phrase is one; which are there is counted."""
    if phrases is None:
        return starts
    spans = phrases.spans(text)
    if seen is not None:
        seen.update(" ".join(ATOM.findall(text[first:stop])).lower() for first, stop in spans)
    return together(starts, offsets, spans, text)


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
        raise RequestError("objective.segmenter: jieba isn't installed; pip install 'llmkit-train[chinese]', or "
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
