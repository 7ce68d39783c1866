"""Texts to token ids and back; at the cost of their distinct words: what is cut apart at spaces is seen but once.

English has some five characters a word, and most words of a text stand in it many times. Tokenizers that look at each
word by itself are told by their parts; any other is given whole texts. The ids are the same.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmkit.data.tokenizer_files import rows_for
from llmkit.data.words import Phrases, bare, encode_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

Ids: TypeAlias = "NDArray[Any]"
"""Token ids, one-dimensional, of an unsigned type."""
Split: TypeAlias = "Callable[[str], list[str]]"

MOST_WORDS, MOST_CHARACTERS = 2**16, 2**21  # remembered at once: some 12 MB
GROUP = 256  # words that the tokenizer is given in one piece
SHARE = 0.01  # of the tokens, from which on unknown ones are said
EXAMPLES, LOOKED_AT, READ, SHOWN = 5, 50, 2000, 20  # of the unknown; texts that are looked into, characters of each

SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space
IDEOGRAPHS = ("\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
              "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f")  # what BertNormalizer puts spaces around
WIDE = f"{IDEOGRAPHS}\u3001-\u303f\uff01-\uff60\uffe0-\uffe6"
"""Characters that no space stands beside: ideographs, and punctuation and letters of full width."""
CUT = "\ufdd1"
"""Where a text is cut before it is tokenized; no character of any text."""
BESIDE = re.compile(f"(?<=[{WIDE}]) +| +(?=[{WIDE}])")
LAST_WIDE = re.compile(f"[{WIDE}](?=[^{WIDE}]*$)")


class Encoder:
    """Encodes texts without special tokens, truncation or padding; remembers the words that it has seen.

    With `plain`, control tokens that are written in them are text. With `marks`, words are marked, and `phrases` are
    words.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, marks: str | None = None, plain: bool = False,
        phrases: Phrases | None = None,
    ) -> None:
        self.tokenizer, self.marks, self.phrases = tokenizer, marks, phrases
        self.seen: Counter[str] = Counter()
        """How often each phrase was there."""
        self.controls = controls(tokenizer) if plain else {}
        self.dtype = np.dtype(np.uint16 if rows_for(tokenizer) <= 2**16 and marks is None else np.uint32)
        across = marks == "jieba" or phrases is not None  # jieba's words, and phrases, reach across spaces
        self.split = None if across else splitter(tokenizer)
        self._forget()

    def __call__(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        """(ids of all texts, one after the other; how many each text has)."""
        if not self.controls:
            return self._encode(texts)
        parts = [uncontrolled(text, self.controls).split(CUT) for text in texts]
        ids, sizes = self._encode([part for some in parts for part in some])
        ends = np.concatenate([[0], np.cumsum(sizes)])
        return ids, np.diff(ends[np.cumsum([len(some) for some in parts], dtype=np.int64)], prepend=0)

    def _encode(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        if self.split is None:
            return self._whole(list(texts))
        words: list[str] = []
        counts = []
        for text in texts:
            pieces = self.split(text)
            words += pieces
            counts.append(len(pieces))
        which = np.fromiter(map(self.known.__getitem__, words), np.int64, len(words))
        if self.known.fresh:
            self._learn(self.known.fresh)
        sizes = self.sizes[which]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        ids = self.ids[places(self.starts[which], sizes)]
        if len(self.known) > MOST_WORDS or self.characters > MOST_CHARACTERS:
            self._forget()
        return ids, np.diff(ends[np.cumsum(counts, dtype=np.int64)], prepend=0)

    def _forget(self) -> None:
        self.known, self.characters = Numbers(), 0
        self.ids: Ids = np.zeros(0, self.dtype)
        self.starts = self.sizes = np.zeros(0, np.int64)

    def _learn(self, words: list[str]) -> None:
        ids, sizes = self._whole(words) if self.marks is not None else self._words(words)
        self.starts = np.concatenate([self.starts, len(self.ids) + np.cumsum(sizes) - sizes])
        self.sizes, self.ids = np.concatenate([self.sizes, sizes]), np.concatenate([self.ids, ids])
        self.characters += sum(map(len, words))
        words.clear()

    def _words(self, words: list[str]) -> tuple[Ids, NDArray[np.int64]]:
        """Many short texts; the tokenizer takes them in groups, and says of each token which it is from."""
        groups = [words[i : i + GROUP] for i in range(0, len(words), GROUP)]
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        encodings = backend.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        sizes = [np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(group))
                 for encoding, group in zip(encodings, groups, strict=True)]
        return np.concatenate([np.array(encoding.ids, self.dtype) for encoding in encodings]), np.concatenate(sizes)

    def _whole(self, texts: list[str]) -> tuple[Ids, NDArray[np.int64]]:
        found: Sequence[Sequence[int] | Ids] = (
            encode(self.tokenizer, texts) if self.marks is None
            else encode_words(self.tokenizer, texts, self.marks, self.phrases, self.seen))
        sizes = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), self.dtype, int(sizes.sum())), sizes


class Unknown:
    """How many tokens stand for what a tokenizer doesn't know, and what that is, of all that is `seen`.

    The id of `[UNK]` or `<unk>` is one for everything: a model that reads many of it learns to expect it, its loss is
    low, and it has learned nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.id = unknown_id(tokenizer)
        self.letters = alphabet(tokenizer) if self.id is None else None
        """All that its tokens can say, where it leaves out what isn't among that."""
        self.tokens = self.count = 0
        self.examples: list[str] = []
        self.said = False

    def see(self, ids: Sequence[int] | Ids, texts: Any) -> None:
        """Count the ids that texts, or all texts of some rows, became; these are looked into only for examples."""
        self.tokens += len(ids)
        found = 0 if self.id is None else int(np.count_nonzero(bare(np.asarray(ids)) == self.id))
        self.count += found
        if self.letters is not None:
            self._miss(texts)
        if found and len(self.examples) < EXAMPLES:
            for text in islice(texts_in(texts), LOOKED_AT):
                new = [one for one in self._within(text[:READ]) if one not in self.examples]
                self.examples += list(dict.fromkeys(new))[: EXAMPLES - len(self.examples)]
                if len(self.examples) == EXAMPLES:
                    break

    def _miss(self, texts: Any) -> None:
        """Count the characters that no token stands for."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        for text in texts_in(texts):
            read = text if normalizer is None else normalizer.normalize_str(text)
            lost = [sign for sign in read if sign not in self.letters and not sign.isspace()]  # type: ignore[operator]
            self.count += len(lost)
            new = dict.fromkeys(one for one in lost[:READ] if one not in self.examples)
            self.examples += list(new)[: EXAMPLES - len(self.examples)]

    def _within(self, text: str) -> list[str]:
        """What of a text is unknown, in its order."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [word[:SHOWN] for word in text.split() if self.id in encode(self.tokenizer, [word])[0]]
        backend.no_truncation()
        backend.no_padding()
        encoding = backend.encode(text, add_special_tokens=False)
        spans = [span for number, span in zip(encoding.ids, encoding.offsets, strict=True) if number == self.id]
        return [part[:SHOWN] for start, stop in spans if (part := text[start:stop].strip())]

    def note(self) -> str | None:
        """What to say where a hundredth of the tokens or more are unknown; None where fewer are."""
        if self.count == 0 or self.count < SHARE * self.tokens:
            return None
        what = f", such as {', '.join(map(repr, self.examples))}" if self.examples else ""
        if self.letters is not None:
            return (f"{self.count:,} characters beside {self.tokens:,} tokens are left out: the tokenizer has no token "
                    f"for them{what}, and none for what it doesn't know. Use a model and a tokenizer of this language.")
        return (f"{self.count:,} of {self.tokens:,} tokens ({self.count / self.tokens:.1%}) are "
                f"{self.tokenizer.unk_token}: the tokenizer doesn't know what stands there{what}. All that is one and "
                "the same to the model, and a low loss says nothing; use a model and a tokenizer of this language.")


    def warn(self, name: str) -> None:
        """Say the note to whoever uses the model of this name; once."""
        if not self.said and (note := self.note()) is not None:
            self.said = True
            log.warning("%s: %s", name, note)


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of all that a tokenizer doesn't know: `[UNK]`; None where it knows all."""
    ends = (tokenizer.eos_token_id, tokenizer.bos_token_id)  # byte-level BPE knows all, and names an end here
    return None if tokenizer.unk_token_id in ends else tokenizer.unk_token_id


def alphabet(tokenizer: PreTrainedTokenizerBase) -> frozenset[str] | None:
    """The characters of a tokenizer's tokens, where it leaves out all others without a word; else None.

    So does BPE without a token for what is unknown, if it doesn't go down to bytes.
    """
    from tokenizers.models import BPE

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, BPE) or backend.model.byte_fallback or backend.model.unk_token:
        return None
    if "ByteLevel" in f"{backend.pre_tokenizer!r}{backend.normalizer!r}":
        return None
    return frozenset("".join(backend.get_vocab(with_added_tokens=False)))


# ---- control tokens that are written in a text ----


class Written:
    """How many control tokens stand in texts that somebody wrote: `[MASK]`, `<|endoftext|>`.

    Tokenizers take them for the real ones, whatever they were meant to be; with `plain` they are text here.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, plain: bool = False) -> None:
        self.plain, known = plain, controls(tokenizer)
        self.known = {number: written for written, number in known.items()}
        self.pattern = pattern_of(known)
        if (unknown := unknown_id(tokenizer)) is not None:  # where it stands, something is unknown
            self.known.pop(unknown, None)
        self.counts: Counter[str] = Counter()

    def see_ids(self, ids: Sequence[int] | Ids) -> None:
        """Count them in what texts became, without tokens around them."""
        found = bare(np.asarray(ids))
        numbers, counts = np.unique(found[np.isin(found, list(self.known))], return_counts=True)
        self.counts.update({self.known[int(number)]: int(count)
                            for number, count in zip(numbers, counts, strict=True)})

    def see(self, texts: Any) -> None:
        """Count them in texts, or in all texts of some rows."""
        if self.pattern is not None:
            self.counts.update(one for text in texts_in(texts) for one in self.pattern.findall(text))

    def note(self) -> str | None:
        """What to say where there are any."""
        count = self.counts.total()
        if not count:
            return None
        ranked = sorted(self.counts.items(), key=lambda one: (-one[1], one[0]))
        most = ", ".join(f"{written!r} {times:,}" for written, times in ranked[:EXAMPLES])
        what = f"{count:,} control tokens are written in the texts ({most}), and are read as "
        return what + ("plain text (data.control_tokens: split)" if self.plain else
                       "what they are to the model (data.control_tokens: keep); split makes plain text of them")


def controls(tokenizer: PreTrainedTokenizerBase, template: bool = False) -> dict[str, int]:
    """Control tokens as they are written, and their ids: special ones, with `template` also those that it writes."""
    written = tokenizer.chat_template if template else None
    written = "".join(written.values()) if isinstance(written, dict) else written or ""
    known = {str(token.content): number for number, token in tokenizer.added_tokens_decoder.items()
             if token.special or token.content in written}
    known |= zip(map(str, tokenizer.all_special_tokens), tokenizer.all_special_ids, strict=True)
    return {one: number for one, number in known.items() if len(one.strip()) > 1}


def pattern_of(known: Mapping[str, int]) -> re.Pattern[str] | None:
    """What finds them in a text, the longest first; None where there are none."""
    return re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True)))) if known else None


def uncontrolled(text: str, known: Mapping[str, int]) -> str:
    """A text with a CUT in each control token that is written in it, behind its first character.

    `encode_uncontrolled` then makes text of it.
    """
    pattern = pattern_of(known)
    if pattern is None or not any(one in text for one in known):
        return text
    cuts = [0]
    while found := pattern.search(text, cuts[-1]):
        cuts.append(found.start() + 1)  # one that begins within another is found too
    return CUT.join(text[start:end] for start, end in pairwise([*cuts, len(text)]))


def encode_uncontrolled(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """`encode`; a text with cuts in parts, and without them."""
    parts = [text.split(CUT) for text in texts]
    ids = iter(encode(tokenizer, [part for some in parts for part in some]))
    return [list(chain.from_iterable(islice(ids, len(some)))) for some in parts]


@contextmanager
def as_text(tokenizer: PreTrainedTokenizerBase, on: bool = True) -> Iterator[None]:
    """While the block runs, control tokens that are written in a text are text; those around it aren't.

    Not so where the tokenizer's own pieces of text are found first: `finds_controls`.
    """
    if not on:
        yield
        return
    backend, before = getattr(tokenizer, "backend_tokenizer", None), tokenizer.split_special_tokens

    def turn(plain: bool) -> None:
        tokenizer.split_special_tokens = plain
        if backend is not None:
            backend.encode_special_tokens = plain

    turn(True)
    try:
        yield
    finally:
        turn(before)


def finds_controls(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether control tokens are among the pieces that a text is cut into, as in Unigram's vocabulary (T5, XLM-R)."""
    with as_text(tokenizer):
        return any(number in encode(tokenizer, [written])[0] for written, number in controls(tokenizer).items()
                   if number != tokenizer.unk_token_id)


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a row, also those in its lists and objects.

    >>> list(texts_in({"text": "a", "choices": ["b", {"label": "c", "n": 1}]}))
    ['a', 'b', 'c']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(part)


def within(value: Any, change: Callable[[str], str]) -> Any:
    """The same, with every text in it changed, also those in its lists and objects.

    >>> within({"text": "a", "choices": ["b", 1]}, str.upper)
    {'text': 'A', 'choices': ['B', 1]}
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: within(part, change) for name, part in value.items()}
    return type(value)(within(part, change) for part in value) if isinstance(value, list | tuple) else value


class Numbers(dict[str, int]):
    """Words to the order in which they were first seen; `fresh` are those that came since it was cleared."""

    def __init__(self) -> None:
        self.fresh: list[str] = []

    def __missing__(self, word: str) -> int:
        self.fresh.append(word)
        number = self[word] = len(self)
        return number


def places(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions of several slices, one after the other.

    >>> places(np.array([7, 2]), np.array([2, 3])).tolist()
    [7, 8, 2, 3, 4]
    """
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens, truncation or padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # slow tokenizers have none
    if backend is None:
        return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def splitter(tokenizer: PreTrainedTokenizerBase) -> Split | None:
    r"""What cuts a text into pieces whose ids, one after the other, are those of the text; None where none is known.

    Two kinds of tokenizers are known to work piece by piece.

    Those that drop the space between words (BERT's, T5's): a piece is what stands between two spaces or newlines, and
    where the tokenizer sets ideographs apart, so is each of these.

    Those that keep it (byte-level BPE, characters): a piece is a run of spaces with what follows, for no token of
    theirs has something else before a space, and none of their patterns looks back. GPT-2's is
    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

    Tokens that were added are looked for before all that. They are within one piece where they have no space, look at
    no neighbour and take no space that follows.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ not in ("WordPiece", "BPE", "Unigram", "WordLevel"):
        return None
    if getattr(backend.model, "dropout", None):  # merges left out by chance
        return None
    for token in backend.get_added_tokens_decoder().values():
        plain = token.content.isascii() and token.content.isprintable() and " " not in token.content
        if not plain or token.single_word or token.rstrip:
            return None
    normalizer, cutter = _state(backend.normalizer), _state(backend.pre_tokenizer)
    if normalizer.get("type") not in (None, "Lowercase", "BertNormalizer"):
        return None
    if _drops_spaces(cutter):
        if normalizer.get("handle_chinese_chars"):
            split = re.compile(f"[{IDEOGRAPHS}]|[^ \n{IDEOGRAPHS}]+").findall
            return lambda text: _between_spaces(text) if text.isascii() else split(text)
        return _between_spaces
    if _keeps_spaces(cutter) and normalizer.get("type") != "BertNormalizer":
        return re.compile(f"[{SPACES}]*[^{SPACES}]+|[{SPACES}]+").findall
    return None


def _between_spaces(text: str) -> list[str]:
    return text.replace("\n", " ").split(" ")


def _drops_spaces(cutter: dict[str, Any]) -> bool:
    if cutter.get("type") == "BertPreTokenizer":
        return True
    parts = cutter.get("pretokenizers", ())
    return ([part["type"] for part in parts] == ["WhitespaceSplit", "Metaspace"]
            and parts[1]["prepend_scheme"] == "always")


def _keeps_spaces(cutter: dict[str, Any]) -> bool:
    parts = cutter.get("pretokenizers", [cutter])
    if parts[0].get("type") == "Digits":  # cuts digits out, then leaves the rest to the other part
        parts = parts[1:]
    if len(parts) != 1:
        return False
    if parts[0].get("type") == "Split":
        return bool(parts[0]["pattern"] == {"Regex": r"[\s\S]"} and parts[0]["behavior"] == "Isolated")
    return bool(parts[0].get("type") == "ByteLevel" and parts[0]["use_regex"] and not parts[0]["add_prefix_space"])


def _state(part: Any) -> dict[str, Any]:
    """A part of the pipeline as `tokenizers` writes it; empty where there is none."""
    return {} if part is None else dict(json.loads(part.__getstate__()))


# ---- ids back to text ----


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skip: bool = True) -> str:
    """The text of ids, without tokens that stand for no text unless `skip` is false.

    WordPiece (BERT's) sets every ideograph apart and writes a space between all words: 今 天 ， ok  ->  今天，ok
    """
    text = str(tokenizer.decode(list(ids), skip_special_tokens=skip))
    return joined(text) if sets_apart(tokenizer) else text


def joined(text: str) -> str:
    """Without the spaces beside ideographs and full-width punctuation."""
    return BESIDE.sub("", text)


def sets_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer decodes by putting a space between words, whatever the text had."""
    return tokenizer.is_fast and type(tokenizer.backend_tokenizer.decoder).__name__ == "WordPiece"


def certain(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """So much of a text as no later token takes a space from: all but its last two words, or up to an ideograph.

    it is n't 今天  ->  it is n't 今天;  it is n  ->  it
    """
    kept, wide = " ".join(text.split(" ")[:-2]), LAST_WIDE.search(text) if sets_apart(tokenizer) else None
    return text[: max(len(kept), wide.end() if wide else 0)]
