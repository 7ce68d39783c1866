"""A folder of tokens: what `llmkit tokenize` wrote, opened as a source without a look at the text."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.data import tokenizer as tokenizers
from llmkit.data import tokens
from llmkit.data.encoder import EXAMPLES
from llmkit.data.files import Place
from llmkit.data.large.hashes import DamagedError, content_of, damaged
from llmkit.data.large.joined import JoinedIds, ids_of
from llmkit.data.large.remote import brought_folder
from llmkit.data.large.shards import CONTENT, Shard, name_of
from llmkit.data.sources import Reader
from llmkit.data.tokenizer_files import rows_for
from llmkit.data.tokens import Documents, Marked, Range, TokenOrigin
from llmkit.system import cache
from llmkit.system.addresses import at_home, masked, scheme_of
from llmkit.system.errors import DataError, NothingThereError, RequestError
from llmkit.system.terminal import shell_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAN = "tokens.json"
"""Says what the shards of a folder are, and how they are made."""
TOKENIZER = "tokenizer"
"""The folder in it that the tokenizer is in."""
LAYOUT = 1
"""Goes up when a folder is laid out otherwise."""
NAMED = 12
"""Missing shards that are named; of more, the number is said."""


@dataclass(frozen=True)
class Making:
    """How the texts of a folder became ids: what must be asked for alike to learn from it."""

    tokenizer: str
    """Its fingerprint."""
    trained: dict[str, Any] | None
    """What it was trained with, where it was: kind, vocab_size, lowercase, sample."""
    plain: bool
    """Whether control tokens that are written in a text are text."""
    words: str | None
    sentences: str | None
    phrases: str | None
    """The hash of a dictionary."""
    swaps: str | None
    """The hash of the words that are swapped."""

    @classmethod
    def asked(
        cls, reader: Reader, tokenizer: PreTrainedTokenizerBase, plain: bool, trained: dict[str, Any] | None = None,
    ) -> Making:
        """What a source is asked for."""
        words, sentences, phrases = ((reader.words, reader.sentences, reader.phrases) if isinstance(reader, Marked)
                                     else (None, None, None))
        return cls(tokenizers.fingerprint(tokenizer), trained, plain, words, sentences,
                   None if phrases is None else phrases.digest, None if reader.swaps is None else reader.swaps.digest)

    def differs(self, other: Making) -> str:
        """What of this, a folder's, isn't as another asks for it, in words; "" where they agree."""
        for name, said in (
            ("plain", "data.control_tokens is {1}, and these tokens were made with {0}"),
            ("words", "the objective asks for words that are marked by {1}, and these tokens have {0}"),
            ("sentences", "the objective asks for sentences that are cut by {1}, and these tokens have {0}"),
            ("phrases", "the objective hides phrases of another file than these tokens were marked by ({0})"),
            ("swaps", "data.augment swaps other words than in these tokens ({0})"),
        ):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return said.format(*(("split" if one else "keep") if name == "plain" else one or "none"
                                     for one in (ours, theirs)))
        return ""


class TokenFolder(TokenOrigin):
    """The tokens of a folder, or of one of the sources that it was made of; construct it through `open`.

    Nothing but the shards' lists of files is read when it is opened; the ids are mapped when they are asked for.
    """

    def __init__(self, label: str, folder: Path, plan: dict[str, Any], numbers: Sequence[int]) -> None:
        self.label, self.folder, self.plan, self.numbers = label, folder, plan, numbers
        self.making = Making(**plan["making"])

    @classmethod
    def open(cls, label: str) -> TokenFolder:
        """`tokens:DIR`, or `tokens:DIR:2` for the second source of the recipe that it was made by.

        RequestError where no folder is named; DataError where it isn't there, where shards of it are missing, with
        their names, or where it is of a layout that this version doesn't know.
        """
        place, number = label.removeprefix("tokens:"), None
        if not place.strip():
            raise RequestError(f"{label!r} names no folder: tokens:DIR, where `llmkit tokenize RECIPE --out DIR` wrote "
                               "one.")
        if scheme_of(place) is not None:
            far = re.fullmatch(r"(\w+://[^/]+/.+?)(:\d+)?", place)
            where, which = (place, "") if far is None else (far[1], far[2] or "")
            label, place = f"tokens:{masked(place)}", f"{brought_folder(where)}{which}"
        path = at_home(place)
        found = re.fullmatch(r"(.+):(\d+)", str(path))
        if found and not path.is_dir():
            path, number = Path(found[1]), int(found[2])
        plan = plan_of(path, label)
        sources = [str(source["source"]) for source in plan["sources"]]
        if number is not None and not 1 <= number <= len(sources):
            raise DataError(f"{label}: this folder is of {len(sources)} sources, numbered from 1: "
                            f"{', '.join(sources)}.")
        chosen = [i for i, shard in enumerate(plan["shards"]) if number is None or shard["source"] == number - 1]
        missing = [i for i in chosen if not (path / name_of(i) / CONTENT).is_file()]
        if missing:
            names = ", ".join(map(name_of, missing[:NAMED])) + (" …" if len(missing) > NAMED else "")
            raise DataError(f"{label}: {len(missing):,} of {len(chosen):,} shards are missing: {names}. `llmkit "
                            f"tokenize RECIPE --out {shell_word(path)}` makes those that aren't there.")
        return cls(label, path, plan, chosen)

    @property
    def words(self) -> str | None:
        """Who marked where words start in them."""
        return self.making.words

    def rows(self, spare: object) -> Iterator[tuple[dict[str, Any], Place]]:
        """DataError: there is no text."""
        raise DataError(f"{self.label}: holds ids of tokens, not text, and here the text is asked for; name the text "
                        "itself.")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the shards' lists say of their files; no ids are read."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        about = json.dumps([LAYOUT, self.plan["making"], [shard["files"] for shard in self.contents]], sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()

    @cached_property
    def contents(self) -> list[dict[str, Any]]:
        """What each shard says of itself; DataError where its files aren't of the sizes that it says."""
        out, wrong = list[dict[str, Any]](), dict[Path, str]()
        for place in self.places:
            try:
                out.append(content_of(place))
            except DamagedError as error:
                wrong[place] = str(error)
        if wrong:
            raise self._damaged(wrong)
        return out

    @property
    def places(self) -> list[Path]:
        """Where its shards are."""
        return [self.folder / name_of(number) for number in self.numbers]

    def check(self) -> None:
        """DataError where a byte of a shard isn't what was written, with the shard's name and what to do."""
        if found := damaged(self.places):
            raise self._damaged(found)

    def _damaged(self, found: Mapping[Path, str]) -> DataError:
        """What is wrong with shards."""
        named = [f"{place.name} ({why})" for place, why in list(found.items())[:NAMED]]
        what = "this shard is" if len(found) == 1 else f"{len(found):,} shards are"
        return DataError(f"{self.label}: {what} damaged: {', '.join(named)}{' …' * (len(found) > NAMED)}. The command "
                         f"that made them makes them anew, and leaves the others: `llmkit tokenize RECIPE --out "
                         f"{shell_word(self.folder)}`.")

    @property
    def size(self) -> int:
        """Bytes of the text that it was made of."""
        return sum(int(content["text"]) for content in self.contents)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that made the ids."""
        return tokenizers.load(self.folder / TOKENIZER)

    def tokenized(self, reader: Reader, tokenizer: PreTrainedTokenizerBase, plain: bool) -> Documents:
        """All documents, shard after shard; RequestError where they were made otherwise than is asked for."""
        asked = Making.asked(reader, tokenizer, plain)
        if asked.tokenizer != self.making.tokenizer:
            raise RequestError(f"{self.label}: these tokens are of another tokenizer than the recipe's; say tokenizer: "
                               f"{{pretrained: {self.folder / TOKENIZER}}}, or tokenize the text anew.")
        if why := self.making.differs(asked):
            raise RequestError(f"{self.label}: {why}; tokenize the text anew, or ask for what it has.")
        cuts = {source["document"] for source in self.plan["sources"]}
        if reader.asked not in ("auto", *cuts) and cuts != {None}:
            raise RequestError(f"data.document: {reader.asked} is asked for, and the documents of {self.label} are "
                               f"{' and '.join(sorted(map(str, cuts)))}s; say auto, or tokenize the text anew.")
        self.check()
        with tokens.readable(reader, self.folder):
            documents = self._documents(reader)
            tokens.tell(reader, tokenizer, plain, self._about(), lambda: ())
        return replace(documents, bound=Range(rows_for(tokenizer), self.label, "Tokenize the text anew."))

    def _about(self) -> dict[str, Any]:
        """What was counted in all shards."""
        out: dict[str, Any] = {"tokens": 0, "controls": Counter[str](), "unknown": [0, []]}
        for number in self.numbers:
            about = json.loads((self.folder / name_of(number) / "about.json").read_text())
            out["tokens"] += about["tokens"]
            out["controls"].update(about["controls"])
            out["unknown"][0] += about["unknown"][0]
            out["unknown"][1] = list(dict.fromkeys([*out["unknown"][1], *about["unknown"][1]]))[:EXAMPLES]
        return out

    def _documents(self, reader: Reader) -> Documents:
        places = self.places
        if len(places) == 1 and isinstance(ids_of(places[0]), Path):
            return tokens.read(places[0], reader)
        whole = sum(content["tokens"] for content in self.contents)
        counts = [content["documents"] for content in self.contents]
        names = [name for name in ("sentences", "own") if (places[0] / f"{name}.npy").is_file()]
        key = hashlib.sha256(json.dumps(["joined", LAYOUT, self.fingerprint()]).encode()).hexdigest()
        joined = cache.once("joined", key, lambda folder: _join(places, names, sum(counts), folder))
        arrays = {name: tokens.array_in(joined / f"{name}.npy") for name in ("offsets", "digests", *names)}
        dtype = json.loads((places[0] / "about.json").read_text())["dtype"]
        ids: Any = JoinedIds(list(map(ids_of, places)), [one["tokens"] for one in self.contents], dtype)
        if arrays["offsets"][-1] != whole or len(ids) != whole:
            raise ValueError(f"{arrays['offsets'][-1]:,} ids, where {whole:,} are said to be")
        return Documents(ids, arrays["offsets"][:-1], arrays["offsets"][1:], arrays["digests"],
                         arrays.get("sentences"), arrays.get("own"), np.cumsum([0, *counts]), self.fingerprint())


def plan_of(folder: Path, label: str) -> dict[str, Any]:
    """What a folder of tokens says of itself; DataError where it is none, or one that this version doesn't know."""
    try:
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text())
        if plan["layout"] == LAYOUT:
            _check_plan(plan)
    except FileNotFoundError as error:
        near = f"; there is no such folder as {folder}" if not folder.is_dir() else f": {folder} has no {PLAN}"
        kind = DataError if folder.is_dir() else NothingThereError
        raise kind(f"{label}: isn't a folder that `llmkit tokenize RECIPE --out DIR` wrote{near}.") from error
    except OSError as error:
        raise DataError(f"{folder / PLAN}: can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{folder / PLAN}: is damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]}), "
                        "and without it nobody knows what text the shards are of. Put a copy there, as another machine "
                        "that shared the work has one; or delete the folder and make it anew: `llmkit tokenize RECIPE "
                        f"--out {shell_word(folder)}`.") from error
    if plan["layout"] != LAYOUT:
        raise DataError(f"{label}: was written by llmkit {plan.get('llmkit', '?')} in layout {plan['layout']}, and "
                        f"this version reads layout {LAYOUT}; tokenize the text anew.")
    return plan


def _check_plan(plan: Mapping[str, Any]) -> None:
    """KeyError, TypeError or ValueError where a plan hasn't all that is asked of it."""
    Making(**plan["making"])
    for source in plan["sources"]:
        _ = source["source"], source["document"], source["notes"], [int(count) for count in source["bytes"]]
    for shard in plan["shards"]:
        _ = plan["sources"][Shard.of(shard).source]
    int(plan["size"])


def _join(places: Sequence[Path], names: Sequence[str], documents: int, folder: Path) -> None:
    """Write the arrays of all shards as one each, a shard at a time; positions are counted through all ids."""
    ends = 0
    offsets = np.lib.format.open_memmap(folder / "offsets.npy", "w+", np.int64, (documents + 1,))
    digests = np.lib.format.open_memmap(folder / "digests.npy", "w+", np.uint64, (documents,))
    sizes = {name: sum(len(tokens.array_in(place / f"{name}.npy")) for place in places) for name in names}
    more = {name: np.lib.format.open_memmap(
        folder / f"{name}.npy", "w+", np.int64 if name == "sentences" else np.uint64, (sizes[name],)) for name in names}
    at = dict.fromkeys(["documents", *names], 0)
    offsets[0] = 0
    for place in places:
        those, start = tokens.array_in(place / "offsets.npy"), at["documents"]
        stop = at["documents"] = start + len(those) - 1
        offsets[start + 1 : stop + 1] = those[1:] + ends
        digests[start:stop] = tokens.array_in(place / "digests.npy")
        for name, array in more.items():
            found = tokens.array_in(place / f"{name}.npy")
            array[at[name] : at[name] + len(found)] = found + ends if name == "sentences" else found
            at[name] += len(found)
        ends += int(those[-1])
