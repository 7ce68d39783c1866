"""A tokenizer's files, in every layout that people have: which kind they are of, and how they are opened.

tokenizer_config.json and tokenizer.json · tokenizer.json alone · vocab.txt · vocab.json and merges.txt · spiece.model
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llmkit.recipe.bounds import check_config
from llmkit.system.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

SETTINGS, WHOLE, WORDS, PAIRS, MERGES = (
    "tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
PIECES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
FILES = (SETTINGS, WHOLE, WORDS, PAIRS, *PIECES)
"""What a folder with a tokenizer has one of."""
ROLES: dict[str, tuple[str, ...]] = {
    "pad_token": ("[PAD]", "<pad>", "<|pad|>", "<PAD>"),
    "unk_token": ("[UNK]", "<unk>", "<|unk|>", "<UNK>"),
    "cls_token": ("[CLS]", "<cls>"),
    "sep_token": ("[SEP]", "<sep>"),
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
    "bos_token": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos_token": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
}
"""What special tokens are usually called, where no file says which is which."""
CLASSES = {"bert": "bert-base-uncased", "gpt2": "GPT-2", "roberta": "RoBERTa", "t5": "T5", "albert": "ALBERT",
           "xlnet": "XLNet", "llama": "Llama", "xlm-roberta": "XLM-RoBERTa"}
"""Tokenizers by the model_type whose class reads them, with the name of a model that people know."""
MOST_ADDED, LONGEST_ADDED = 100_000, 1000
"""Tokens that are added to a vocabulary one by one, and the characters of one: texts are searched for all of them."""
MOST_AROUND = 64
"""Special tokens, or pieces of a template, that stand around each text."""
HOLES = 2**16
"""Ids without a token that even a small vocabulary may have."""
SENTINEL = re.compile(r"extra\d+")
"""UER's name of a sentinel, a line of a vocab.txt."""


def load(place: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer from a folder, or from one of its files; nothing is downloaded, no code of it is run.

    CheckpointError where there is none, or it can't be read. What no file says and is concluded from the words is said.
    """
    if place.is_dir() and not has_tokenizer(place):
        raise CheckpointError(f"{place}: there is no tokenizer here (no {', '.join(FILES[:-1])} or {FILES[-1]}).")
    try:
        tokenizer = read(place)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises nothing more precise
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise CheckpointError(f"{place}: the tokenizer can't be read: {reason}") from error
    if empty := rows_for(tokenizer) - len(tokenizer):
        log.info("tokenizer: %d of its ids stand for no token (a line twice in its vocabulary?): %s tokens, %s ids",
                 empty, f"{len(tokenizer):,}", f"{rows_for(tokenizer):,}")
    return tokenizer


def rows_for(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many rows a table of embeddings needs for it: the largest id and one.

    That is more than its tokens where ids have holes, as those of a vocab.txt with a line twice.
    """
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file that a tokenizer can be opened by."""
    return any((folder / name).is_file() for name in FILES)


def read(place: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a file, with whatever error transformers has."""
    if place.is_dir():
        tokenizer = _with_sentinels(_of_folder(place))
        _check_numbers(tokenizer, place)
        return tokenizer
    name = usual_name(place)
    if (name != WHOLE and place.name in (SETTINGS, PAIRS, MERGES)) or (place.parent / SETTINGS).is_file():
        return read(place.parent)
    with TemporaryDirectory(prefix="llmkit-") as alone:  # transformers looks for its own names
        shutil.copyfile(place, Path(alone) / name)
        tokenizer = read(Path(alone))
    tokenizer.name_or_path = str(place)
    return tokenizer


def usual_name(path: Path) -> str:
    """What a tokenizer's file is usually called, by its end and its content: my_vocab.txt -> vocab.txt."""
    if path.suffix == ".txt":
        return MERGES if path.name == MERGES else WORDS
    if path.suffix in (".model", ".spm"):
        return path.name if path.name in PIECES else PIECES[0]
    if path.suffix == ".json":
        said = _json(path)
        if "model" in said and "added_tokens" in said:
            return WHOLE
        if path.name in (SETTINGS, PAIRS):
            return path.name
    raise CheckpointError(f"{path}: is no tokenizer's file. Such a file is a {WHOLE}, a {WORDS} with a token a line, "
                          f"or a SentencePiece .model; a folder has one of {', '.join(FILES)}.")


def _of_folder(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    _check_added(folder)
    check_config(folder / "config.json")  # transformers may look there for the tokenizer's class
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    kind = None if _named(folder) else concluded(folder)
    if kind is None:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), **options)
        return tokenizer if (folder / SETTINGS).is_file() or tokenizer.special_tokens_map else _with_roles(tokenizer)
    note = f"its files are read as {CLASSES[kind]}'s"
    if kind == "bert" and "do_lower_case" not in _json(folder / SETTINGS):
        lower = not capitals(_lines(folder / WORDS))
        options["do_lower_case"] = lower
        note = f"its {WORDS} is read as BERT's; it has {'no ' if lower else ''}capital letters, so text " + (
            "is lower-cased" if lower else "keeps its case")
    if not (folder / SETTINGS).is_file():
        log.info("tokenizer: no %s says what it is: %s", SETTINGS, note)
    with _without_mark(folder) as clean:
        tokenizer = AutoTokenizer.from_pretrained(str(clean), tokenizer_type=kind, **options)
    tokenizer.name_or_path = str(folder)
    return tokenizer


@contextmanager
def _without_mark(folder: Path) -> Iterator[Path]:
    """The folder, or a copy of it where a byte order mark stands in its vocab.txt, and would be a part of a token."""
    words = folder / WORDS
    if not words.is_file() or not words.read_bytes().startswith(BOM_UTF8):
        yield folder
        return
    log.info("tokenizer: %s begins with a byte order mark, which is no part of its first token", words)
    with TemporaryDirectory(prefix="llmkit-") as name:
        for path in folder.glob("*.json"):
            shutil.copy(path, name)
        (Path(name) / WORDS).write_bytes(words.read_bytes().removeprefix(BOM_UTF8))
        yield Path(name)


def _check_numbers(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """CheckpointError where a tokenizer's ids, or the length that it knows, are no numbers of tokens."""
    if (rows := rows_for(tokenizer)) > 2 * len(tokenizer) + HOLES:  # a table of embeddings has a row for each
        raise CheckpointError(f"{folder}: its tokenizer has {len(tokenizer):,} tokens, and ids up to {rows - 1:,}: they"
                              " would leave most rows of a model's table empty.")
    added = {*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder}
    if not any(token.strip("▁") for token in tokenizer.get_vocab() if token not in added):  # T5's has a space's mark
        raise CheckpointError(f"{folder}: its tokenizer knows no word, and would read nothing of a text: the file with "
                              f"its vocabulary ({WHOLE}, {WORDS} …) is missing or empty. Copy it from where the model "
                              "is from.")
    longest: Any = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1 or longest % 1:  # NaN, inf
        raise CheckpointError(f"{folder / SETTINGS}: model_max_length is {str(longest)[:40]!r}, and no number of "
                              "tokens.")


def _check_frame(path: Path) -> None:
    """CheckpointError where a tokenizer.json puts more tokens around each text than any model reads.

    {"post_processor": {"single": [{"SpecialToken": {"id": "[CLS]"}}, {"Sequence": {"id": "A"}}], …}}  ->  1 token
    """
    if not path.is_file():
        return
    text, decoder = path.read_text(encoding="utf-8", errors="replace"), json.JSONDecoder()
    for match in re.finditer(r'"(single|pair|ids)"\s*:\s*(?=\[)', text):
        try:
            found, _ = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            return  # who reads it next says what is wrong
        if len(found) > MOST_AROUND:
            raise CheckpointError(f"{path}: puts {len(found):,} tokens around a text ({match[1]}); at most "
                                  f"{MOST_AROUND} are taken.")


def _check_added(folder: Path) -> None:
    """CheckpointError where a tokenizer adds more tokens, or longer ones, than are searched for."""
    _check_frame(folder / WHOLE)
    for name in (WHOLE, SETTINGS, "added_tokens.json", "special_tokens_map.json"):
        for tokens in _added(folder / name):
            if len(tokens) > MOST_ADDED:
                raise CheckpointError(f"{folder / name}: adds {len(tokens):,} tokens one by one; at most "
                                      f"{MOST_ADDED:,} are taken.")
            for token in tokens:
                said = token.get("content") if isinstance(token, dict) else token
                if isinstance(said, str) and len(said) > LONGEST_ADDED:
                    raise CheckpointError(f"{folder / name}: adds a token of {len(said):,} characters; at most "
                                          f"{LONGEST_ADDED:,} are taken.")


def _added(path: Path) -> Iterator[list[Any]]:
    """The lists of tokens that a file adds; a vocabulary, which is long, isn't decoded for that."""
    if not path.is_file():
        return
    text, decoder = path.read_text(encoding="utf-8", errors="replace"), json.JSONDecoder()
    keys = r"added_tokens|added_tokens_decoder|additional_special_tokens|extra_special_tokens"
    starts = [match.end() for match in re.finditer(rf'"(?:{keys})"\s*:\s*(?=[\[{{])', text)]
    for start in starts if path.name != "added_tokens.json" else [0]:
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue  # who reads it next says what is wrong
        if isinstance(found, list | dict):
            tokens = list(found) if path.name == "added_tokens.json" or isinstance(found, list) else [*found.values()]
            yield tokens


def _named(folder: Path) -> bool:
    """Whether a file says the tokenizer's class, or holds all of its pipeline."""
    said = _json(folder / SETTINGS)
    return (folder / WHOLE).is_file() or "tokenizer_class" in said or "auto_map" in said


def concluded(folder: Path) -> str | None:
    """The model_type whose class reads the files of a folder; None where its config's own class does."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    config = _json(folder / "config.json")
    name = config.get("tokenizer_class") or TOKENIZER_MAPPING_NAMES.get(str(config.get("model_type")))
    known: Any = tokenizer_class_from_name(name) if isinstance(name, str) else None
    files = dict(getattr(known, "vocab_files_names", {}))
    files.pop("tokenizer_file", None)
    if files and all((folder / one).is_file() for one in files.values()):
        lines = _lines(folder / WORDS) if WORDS in files.values() else []
        return "bert" if name == "BertTokenizer" and lines else None
    if (folder / WORDS).is_file() and not (folder / "bpe.codes").is_file():
        if "[UNK]" not in _lines(folder / WORDS):
            raise CheckpointError(f"{folder / WORDS}: isn't BERT's: it has no line [UNK], and no {SETTINGS} says what "
                                  "else it is.")
        return "bert"
    if (folder / PAIRS).is_file() and (folder / MERGES).is_file():
        return "roberta" if {"<s>", "</s>", "<mask>"} <= set(_json(folder / PAIRS)) else "gpt2"
    if (folder / PAIRS).is_file():
        raise CheckpointError(f"{folder / PAIRS}: {MERGES} is missing beside it; the two together are a tokenizer.")
    return _of_pieces(folder)


def _of_pieces(folder: Path) -> str | None:
    """Which model's SentencePiece a file is, by what its special pieces are called; None where there is none."""
    found = next((name for name in PIECES if (folder / name).is_file()), None)
    if found is None:
        return None
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / found))
    first = {pieces.id_to_piece(i) for i in range(min(32, pieces.get_piece_size()))}
    if found == PIECES[2]:
        return "xlm-roberta"
    if found == PIECES[1]:
        return "llama"
    if "[CLS]" in first:
        return "albert"
    return "xlnet" if {"<sep>", "<cls>"} <= first else "t5"


def capitals(lines: list[str]) -> bool:
    """Whether a WordPiece vocabulary was made of text with its capitals: A to Z are tokens, as in every cased one."""
    return sum(chr(letter) in lines for letter in range(ord("A"), ord("Z") + 1)) > 13


def _with_roles(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Tell a tokenizer which of its tokens are special, by what they are called."""
    known = tokenizer.get_vocab()
    found = {role: next((name for name in names if name in known), None) for role, names in ROLES.items()}
    roles = {role: name for role, name in found.items() if name is not None}
    if "mask_token" in roles and {"bos_token", "eos_token"} <= set(roles):  # RoBERTa's have both parts
        roles = {"cls_token": roles["bos_token"], "sep_token": roles["eos_token"], **roles}
    if roles:
        tokenizer.add_special_tokens(dict(roles))
        log.info("tokenizer: no %s says which tokens are special; by their names: %s", SETTINGS,
                 ", ".join(f"{role.removesuffix('_token')} {name}" for role, name in roles.items()))
    return tokenizer


def _with_sentinels(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Make UER's sentinels special, so that no text is read or written with them inside a word."""
    known = tokenizer.get_vocab()
    if "extra0" not in known or "extra99" not in known or "<extra_id_0>" in known:
        return tokenizer
    marks = [name for name in sorted(known, key=known.__getitem__) if SENTINEL.fullmatch(name)]
    tokenizer.add_special_tokens({"extra_special_tokens": marks})
    return tokenizer


def _lines(path: Path) -> list[str]:
    """The lines of a vocabulary; none where there is no file."""
    return path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n") if path.is_file() else []


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file, or it holds none."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
