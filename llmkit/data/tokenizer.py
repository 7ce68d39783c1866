"""Tokenizers trained on a recipe's text: the same text and options give the same tokenizer, byte for byte.

The training that comes with `tokenizers` isn't like that for WordPiece and Unigram, whose ids and ties follow the
random order of hash maps. Here WordPiece gets its alphabet in a fixed order before merges are counted, and Unigram is
trained by SentencePiece in one thread on sorted words.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.data.tokenizer_files import FILES as FILES
from llmkit.data.tokenizer_files import has_tokenizer as has_tokenizer
from llmkit.data.tokenizer_files import load as load
from llmkit.data.tokenizer_files import rows_for as rows_for
from llmkit.system import cache, machine
from llmkit.system.errors import DataError, RequestError, nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FORMAT = 2
"""Goes up when this file makes another tokenizer of the same text, so that old ones in the cache aren't used."""

COVERAGE = 0.9995
"""The share of a text's characters that an alphabet must have (SentencePiece's own default)."""

SENTINELS = 100
LONGEST_WORD = 1000
_LONG = re.compile(rf"\S{{{LONGEST_WORD}}}")
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
GPT2 = ("<|endoftext|>", "<|pad|>")
T5 = ("<pad>", "</s>", "<unk>")
CHARACTERS = {
    "pad_token": "<|pad|>",
    "unk_token": "<|unk|>",
    "eos_token": "<|endoftext|>",
    "bos_token": "<|endoftext|>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True)
class Special:
    """The special tokens of a family, and where they stand around a text."""

    tokens: Mapping[str, str]
    """Role to token, in the order of their ids; two roles may share a token."""
    single: str
    """As `tokenizers` writes a template; a number after a colon is the token's type."""
    pair: str
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")


_TYPES = ("input_ids", "token_type_ids", "attention_mask")
SPECIALS: dict[str, Special] = {
    "bert": Special(
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
         "mask_token": "[MASK]"},
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", _TYPES),
    "gpt2": Special(
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
         "pad_token": "<|pad|>"}, "$A", "$A $B"),
    "t5": Special({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, "$A </s>", "$A </s> $B </s>"),
    "roberta": Special(
        {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
         "cls_token": "<s>", "sep_token": "</s>"}, "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "xlnet": Special(
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<cls>", "sep_token": "<sep>",
         "pad_token": "<pad>", "mask_token": "<mask>"},
        "$A <sep> <cls>:2", "$A <sep> $B:1 <sep>:1 <cls>:2", _TYPES),
    "marian": Special({"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, "$A </s>", "$A $B </s>"),
}
"""By the name that a family's `special` says."""
USUAL = {"wordpiece": "bert", "bpe": "gpt2", "unigram": "t5"}
"""The family whose own tokenizer class each kind of tokenizer is."""


def train(
    documents: Iterable[str], kind: str, vocab_size: int, lowercase: bool | None = None, special: str | None = None
) -> "PreTrainedTokenizerBase":
    """Train a tokenizer on text; `len` of it, special tokens included, is at most `vocab_size`.

    `kind` is wordpiece (BERT's), bpe (GPT-2's, on bytes), unigram (T5's) or characters. It is smaller where the text
    doesn't give more. `lowercase=None` is what the family does: wordpiece lower-cases and strips accents, the others
    keep text as it is. A wordpiece or bpe token of several characters was seen at least twice.

    `special` names the special tokens in SPECIALS, those of the kind's own family where nothing is said; characters
    have those of every family. wordpiece reads the documents twice: an iterator is put into a list for it.
    Raises RequestError (kind, a vocabulary too small for the alphabet) and DataError (no text).
    """
    lower = _lowercase(kind, lowercase)
    if special is None or special == USUAL.get(kind) or kind == "characters":
        made = _KINDS[kind](documents, vocab_size, lower)
    else:
        made = _other(documents, kind, vocab_size, lower, special)
    if len(made) > vocab_size:
        raise RuntimeError(f"the {kind} tokenizer has {len(made)} tokens, more than the {vocab_size} asked for.")
    return made


def trained(
    reader_fingerprints: Sequence[str],
    documents: Callable[[], Iterable[str]],
    kind: str,
    vocab_size: int,
    lowercase: bool | None = None,
    special: str | None = None,
) -> "tuple[PreTrainedTokenizerBase, Path]":
    """`train` on `documents()`, or what it made earlier where fingerprints and options are the same.

    Returns the tokenizer and the folder of the cache that it is in.
    """
    lower = _lowercase(kind, lowercase)
    versions = {name: machine.installed(name) for name in ("tokenizers", "transformers", "sentencepiece")}
    options = {"format": FORMAT, "kind": kind, "vocab_size": vocab_size, "lowercase": lower, "versions": versions}
    if special not in (None, USUAL.get(kind)):
        options["special"] = [special, repr(SPECIALS[str(special)])]
    key = sha256(json.dumps([options, *reader_fingerprints], sort_keys=True).encode()).hexdigest()

    def make(folder: Path) -> None:
        train(_Again(documents), kind, vocab_size, lower, special).save_pretrained(folder)

    folder = cache.once("tokenizers", key, make)
    return load(folder), folder


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash what a tokenizer does: how it cuts text, its ids, special tokens and chat template.

    Padding and truncation are left out: every call of a tokenizer may change them.
    """
    if tokenizer.is_fast:
        written: str = tokenizer.backend_tokenizer.to_str()
        pipeline: Any = written[written.index('"added_tokens":') :]  # padding and truncation stand before it
    else:
        pipeline = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    whole = {"pipeline": pipeline, "special": special, "chat_template": tokenizer.chat_template}
    return sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


# ---- the four kinds ---------------------------------------------------------------------------------------------


def _wordpiece(documents: Iterable[str], vocab_size: int, lowercase: bool) -> "PreTrainedTokenizerBase":
    """BERT's: merges are counted by `tokenizers` once the ids of all single characters are fixed."""
    from tokenizers.normalizers import BertNormalizer
    from transformers import BertTokenizer

    documents = list(documents) if isinstance(documents, Iterator) else documents
    normalizer = BertNormalizer(lowercase=lowercase)
    counts: Counter[str] = Counter()

    def normalized(count: bool) -> Iterator[str]:
        for text in documents:
            text = normalizer.normalize_str(text)
            if count:
                counts.update(text)
            yield text

    # A vocabulary of nothing still gets every character, as `c` and, where it goes on a word, as `##c`.
    single = _wordpieces(normalized(count=True), 0, [], None)
    costs = {piece: 1 + (f"##{piece}" in single) for piece in single if len(piece) == 1}
    alphabet = _alphabet({c: counts[c] for c in costs}, costs, vocab_size, len(BERT), "wordpiece")
    # Ties between merges go to the lower ids, which `tokenizers` gives to `##c` in the order of a hash map unless they
    # are there from the start.
    first = [*BERT, *(f"##{c}" for c in sorted(alphabet) if costs[c] == 2)]
    vocab = _wordpieces(normalized(count=False), vocab_size, first, alphabet)
    # Chinese has few words to merge: characters too rare for the alphabet get the places that are left.
    for c in _ranked({c: counts[c] for c in costs.keys() - set(alphabet)}):
        if len(vocab) + costs[c] <= vocab_size:
            vocab |= {piece: len(vocab) + i for i, piece in enumerate([c, f"##{c}"][: costs[c]])}
    return BertTokenizer(vocab=vocab, do_lower_case=lowercase)


def _wordpieces(texts: Iterator[str], size: int, first: list[Any], alphabet: list[str] | None) -> dict[str, int]:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=first,
        initial_alphabet=alphabet or [],
        show_progress=False,
    )
    if alphabet is not None:
        trainer.limit_alphabet = len(alphabet)
    tokenizer.train_from_iterator(_short_words(texts), trainer)
    vocab: dict[str, int] = _model(tokenizer)["vocab"]
    return vocab


def _bpe(documents: Iterable[str], vocab_size: int, lowercase: bool) -> "PreTrainedTokenizerBase":
    """GPT-2's, on bytes: any text goes in and comes out whole. Padding has a token of its own."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.trainers import BpeTrainer
    from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(GPT2) + len(letters):
        raise _too_small("bpe", vocab_size, len(GPT2) + len(letters))
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(GPT2), initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(_short_words(_some(documents)), trainer)
    model = _model(tokenizer)
    end, pad = GPT2
    merges: Any = [(left, right) for left, right in model["merges"]]
    made = GPT2Tokenizer(vocab=model["vocab"], merges=merges, pad_token=pad, clean_up_tokenization_spaces=False)
    if not lowercase:
        return made
    # GPT2Tokenizer drops a normalizer when it is loaded again; the class without a family keeps it.
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made.backend_tokenizer,
        unk_token=end, bos_token=end, eos_token=end, pad_token=pad,
        clean_up_tokenization_spaces=False,
    )


def _unigram(documents: Iterable[str], vocab_size: int, lowercase: bool) -> "PreTrainedTokenizerBase":
    """T5's: SentencePiece finds the pieces; 100 sentinels for span corruption come last."""
    from io import BytesIO

    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    from transformers import T5Tokenizer

    words: Counter[str] = Counter()
    for text in documents:
        # T5's pipeline cuts words at spaces and at ▁; SentencePiece skips whole sentences with one of the other two.
        words.update(text.replace("▁", " ").replace("\0", " ").replace("\u2585", " ").split())
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for c in word:
            counts[c] += times
    taken = len(T5) + SENTINELS + 1  # one for the space: ▁
    alphabet = _alphabet(counts, dict.fromkeys(counts, 1), vocab_size, taken, "unigram")
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=_table(words, set(alphabet)),
        input_format="tsv",
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size - SENTINELS,
        hard_vocab_limit=False,
        character_coverage=1.0,  # of what the table holds
        normalization_rule_name="identity",
        max_sentence_length=2**30,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece=T5[0],
        eos_piece=T5[1],
        unk_piece=T5[2],
        minloglevel=2,
    )
    pieces = SentencePieceProcessor(model_proto=model.getvalue())
    size = pieces.get_piece_size()
    vocab = [(pieces.id_to_piece(i), round(pieces.get_score(i), 4)) for i in range(size)]
    return T5Tokenizer(vocab=vocab, extra_ids=SENTINELS, clean_up_tokenization_spaces=False)


def _table(words: Mapping[str, int], alphabet: set[str]) -> Iterator[str]:
    """Sorted rows of word, tab and count, cut at characters outside the alphabet.

    A word without end (base64, Chinese without spaces) is cut too: memory grows with the longest.
    """
    for word in sorted(words):
        for part in "".join(c if c in alphabet else " " for c in word).split():
            for start in range(0, len(part), LONGEST_WORD):
                yield f"{part[start : start + LONGEST_WORD]}\t{words[word]}"


def _characters(documents: Iterable[str], vocab_size: int, lowercase: bool) -> "PreTrainedTokenizerBase":
    """Every character a token, spaces and newlines too; the special tokens of every family, none added by itself."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys(CHARACTERS.values()))
    if vocab_size <= len(special):
        raise _too_small("characters", vocab_size, len(special) + 1)
    normalizer = normalizers.Lowercase() if lowercase else None
    counts: Counter[str] = Counter()
    for text in _some(documents):
        counts.update(normalizer.normalize_str(text) if normalizer else text)
    tokens = [*special, *_ranked(counts)][:vocab_size]
    unknown = CHARACTERS["unk_token"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=unknown))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, **CHARACTERS, clean_up_tokenization_spaces=False
    )


_KINDS = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram, "characters": _characters}


def _other(
    documents: Iterable[str], kind: str, vocab_size: int, lowercase: bool, special: str
) -> "PreTrainedTokenizerBase":
    """A kind of tokenizer with the special tokens of another family: its own are taken off, the family's put first.

    The class is the one without a family: transformers builds those of a family anew when they are loaded.
    """
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    wanted = SPECIALS[special]
    first = [*dict.fromkeys(wanted.tokens.values())]
    last = [f"<extra_id_{i}>" for i in range(SENTINELS)] if special == "t5" else []
    own = [*dict.fromkeys(SPECIALS[USUAL[kind]].tokens.values())]
    theirs = len(own) + (SENTINELS if kind == "unigram" else 0)
    made = _KINDS[kind](documents, vocab_size - len(first) - len(last) + theirs, lowercase)
    pipeline = made.backend_tokenizer
    state = json.loads(pipeline.to_str())
    drop = {*own, *(f"<extra_id_{i}>" for i in range(SENTINELS))}
    if kind == "unigram":
        pieces = [(piece, score) for piece, score in state["model"]["vocab"] if piece not in drop]
        vocab = [(token, 0.0) for token in first] + pieces + [(token, 0.0) for token in last]
        model: Any = models.Unigram(vocab, unk_id=first.index(wanted.tokens["unk_token"]), byte_fallback=False)
    else:
        ranked = sorted(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
        ids = {token: i for i, token in enumerate([*first, *(token for token in ranked if token not in drop), *last])}
        if kind == "wordpiece":
            model = models.WordPiece(ids, unk_token=wanted.tokens["unk_token"], max_input_chars_per_word=100)
        else:
            model = models.BPE(ids, [(left, right) for left, right in state["model"]["merges"]])
    tokenizer = Tokenizer(model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(pipeline, part) is not None:
            setattr(tokenizer, part, getattr(pipeline, part))
    tokenizer.add_special_tokens([*first, *last])
    used = [token for token in first if token in wanted.pair.replace(":", " ").split()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=wanted.single, pair=wanted.pair,
        special_tokens=[(token, first.index(token)) for token in used])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, **wanted.tokens, model_input_names=list(wanted.inputs),
        clean_up_tokenization_spaces=False)


# ---- what they share --------------------------------------------------------------------------------------------


class _Again:
    """What a function returns, as something that can be read more than once."""

    def __init__(self, documents: Callable[[], Iterable[str]]) -> None:
        self.documents = documents

    def __iter__(self) -> Iterator[str]:
        return iter(self.documents())


def _lowercase(kind: str, lowercase: bool | None) -> bool:
    """Whether this kind lower-cases, where that isn't said; or why it can't."""
    if kind not in _KINDS:
        raise RequestError(f"tokenizer.train.kind: no tokenizer is called {kind!r}.{nearest(kind, _KINDS)}")
    if kind == "unigram" and lowercase:
        raise RequestError(
            "tokenizer.train.lowercase: a unigram tokenizer (T5's) can't lower-case, true is for wordpiece, bpe and "
            "characters; leave it out, or choose another tokenizer.train.kind."
        )
    return kind == "wordpiece" if lowercase is None else lowercase


def _ranked(counts: Mapping[str, int]) -> list[str]:
    """Characters from the most frequent on; of equals, the lower code point first."""
    return sorted(counts, key=lambda c: (-counts[c], c))


def _alphabet(
    counts: Mapping[str, int], costs: Mapping[str, int], vocab_size: int, taken: int, kind: str
) -> list[str]:
    """The characters that get tokens: those that make up COVERAGE of the text, rarer ones within half the vocabulary.

    `costs` says how many tokens a character takes, `taken` how many tokens there are besides.
    """
    if not counts:
        raise _no_text()
    ranked = _ranked(counts)
    seen = accumulate(counts[c] for c in ranked)
    used = list(accumulate(costs[c] for c in ranked))
    enough = COVERAGE * sum(counts.values())
    needed = next(i for i, n in enumerate(seen, 1) if n >= enough)
    if taken + used[needed - 1] > vocab_size:
        raise _too_small(kind, vocab_size, taken + used[needed - 1])
    affordable = sum(1 for n in used if n <= (vocab_size - taken) // 2)
    return ranked[: max(needed, affordable)]


def _short_words(texts: Iterable[str]) -> Iterator[str]:
    """Texts cut within words without end (base64, Chinese without spaces): time grows with the square of the longest.

    BPE: 25 s of CPU for one word of 300,000 letters, 0.3 s for the whole run where it is cut.
    """
    for text in texts:
        start = 0
        for word in _LONG.finditer(text):
            yield text[start : word.end()]
            start = word.end()
        yield text[start:]


def _some(documents: Iterable[str]) -> Iterator[str]:
    """Pass documents on; if there is nothing in them but spaces, say so."""
    blank = True
    for text in documents:
        blank = blank and not text.strip()
        yield text
    if blank:
        raise _no_text()


def _no_text() -> DataError:
    return DataError("data.train: there is no text to train a tokenizer on; every document is empty.")


def _too_small(kind: str, vocab_size: int, least: int) -> RequestError:
    return RequestError(
        f"tokenizer.train.vocab_size: {vocab_size} is too small for the special tokens and single characters of this "
        f"text in a {kind} tokenizer; the least is {least}."
    )


def _model(tokenizer: "Tokenizer") -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model
