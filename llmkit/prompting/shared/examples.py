"""Examples of what is to be done: read from a file, chosen for an input, and written before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from llmkit.data.fields import find_fields
from llmkit.data.sources import open_source
from llmkit.prompting.base import Kit, Message, Prompt, Prompting, Row, Shot, generator
from llmkit.prompting.shared.template import filled
from llmkit.recipe import Source
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError, RequestError, nearest

INPUT = ("text", "input", "prompt", "question", "instruction", "source", "src", "sentence", "sentence1", "premise",
         "review", "document", "article", "content", "query", "title", "dialogue")
OUTPUT = ("answer", "output", "response", "label", "target", "tgt", "summary", "translation", "completion", "class",
          "category", "sentiment", "topic", "labels", "highlights", "score")
SECOND = ("text_pair", "sentence2", "hypothesis", "text_b")
"""What the input, the output and the second text of a pair are called in the files that people have."""

Labels: TypeAlias = dict[Annotated[str, BeforeValidator(str)], str | list[str]]
Drawing: TypeAlias = Literal["random", "balanced", "nearest", "first"]


@dataclass(config=OPTIONS)
class Worded(Prompting):
    """A mode that says labels in words, and may have examples before the input."""

    labels: Labels | None = None
    """How each label is said where the answer is one: {0: negative, 1: positive}, or a list of words for one label; by
    its own name where nothing is said."""

    @property
    def named(self) -> tuple[str, ...] | None:
        """Those of `labels`."""
        return None if self.labels is None else tuple(self.labels)

    def words(self, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """By `labels`, else by the label's own name; RequestError where they don't match."""
        return spoken(self.labels, labels)

    def chosen(self, row: Row, kit: Kit) -> Sequence[Shot]:
        """The examples that stand before an input."""
        return ()

    def write(self, examples: Sequence[Shot], row: Row, kit: Kit) -> Prompt:
        """The prompt of an input, with these examples."""
        raise NotImplementedError

    def prompt(self, row: Row, kit: Kit) -> Prompt:
        """The prompt of an input, behind the examples that there is room for."""
        return self.fitted(self.chosen(row, kit), {name: kit.clean(text) for name, text in row.items()}, kit)

    def fitted(self, examples: Sequence[Shot], row: Row, kit: Kit) -> Prompt:
        """The prompt with as many of the examples as there is room for."""
        return kit.fitted(lambda some, row: self.write(some, row, kit), examples, row)


@dataclass(config=OPTIONS)
class InQuestions(Worded):
    """An input is written down, what is to be done and examples may stand before, and the answer follows."""

    input_template: str | None = None
    """How an input is written: "Review: {text}\nSentiment:". Where nothing is said, a chat model and an
    encoder-decoder without examples are given the input alone, others "Input: {text}\nOutput:"."""
    raw: bool = False
    """Plain text, though the model has a chat template."""

    def __post_init__(self) -> None:
        if self.input_template is not None and "{text}" not in self.input_template:
            raise ValueError("input_template must contain {text}")

    @property
    def said_first(self) -> tuple[str, str]:
        """(who says what is to be done, and what)."""
        return "user", ""

    def chats(self, kit: Kit) -> bool:
        """Where the tokenizer has a template, unless `raw`."""
        return kit.chat and not self.raw

    def write(self, examples: Sequence[Shot], row: Row, kit: Kit) -> Prompt:
        """Turns of a chat, or examples below each other with an empty line between."""
        who, first = self.said_first
        chats = self.chats(kit)
        alone = chats or (kit.shape != "decoder" and not examples)
        template = self.input_template or ("{text}" if alone else "Input: {text}\nOutput:")
        pairs = [(written(template, one.row), one.answer) for one in shown(examples, kit)]
        asked = written(template, row)
        if not chats:
            text = "\n\n".join([*(joined(*pair) for pair in pairs), asked])
            return Prompt(behind(first, text), examples=len(examples))
        messages: list[Message] = [{"role": "system", "content": first.strip()}] if first and who == "system" else []
        said = [text for pair in pairs for text in pair] + [asked]
        said[0] = behind(first if who == "user" else "", said[0])
        messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
        return Prompt(kit.render(messages), messages=tuple(messages), examples=len(examples))


@dataclass(config=OPTIONS)
class Instructed(InQuestions):
    """An input that is asked about as `InQuestions` does it, after what is to be done was said."""

    instruction: str = ""
    """What is to be done. It is followed by an empty line, unless it ends with a space: "summarize: "."""
    role: Literal["user", "system"] = "user"
    """Who says it in a chat: the user, before the input, or the system message."""

    @property
    def said_first(self) -> tuple[str, str]:
        """(who says what is to be done, and what)."""
        return self.role, self.instruction


@dataclass(config=OPTIONS)
class FewShot(Worded):
    """A mode with examples that are chosen from a file."""

    k: Annotated[int, Field(ge=0)] = 4
    """Examples in a prompt."""
    file: str | None = None
    """A file of inputs and outputs: .jsonl, .csv, .tsv …; a recipe's training rows where nothing is said."""
    fields: dict[str, str | int] = field(default_factory=dict)
    """Which columns they are: {text: sentence, answer: label}; found by their usual names where nothing is said."""
    examples: list[dict[str, str]] | None = None
    """The examples themselves, each {text: …, answer: …}, instead of a file."""
    selection: Drawing = "random"
    """random: the same for every input; balanced: as many of each label, the same for every input; nearest: for each
    input those that are nearest in meaning, the nearest last (Liu et al. 2022); first: those that stand first."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Which are drawn, and in which order."""
    encoder: str = "minilm-l6"
    """The sentence encoder that says what is nearest."""

    @property
    def wants(self) -> int:
        """As many as k says."""
        return self.k

    @property
    def drawn(self) -> bool:
        """Where examples are."""
        return self.k > 0 and self.selection in ("random", "balanced")

    @property
    def varies(self) -> bool:
        """Where they are looked for."""
        return self.k > 0 and self.selection == "nearest"

    def reseeded(self, seed: int) -> Prompting:
        """Other examples, in another order."""
        return replace(self, seed=seed)

    def bare(self) -> Prompting:
        """With k at 0."""
        return replace(self, k=0)

    def chosen(self, row: Row, kit: Kit) -> Sequence[Shot]:
        """So many examples, none of them the input itself."""
        if not self.k:
            return ()
        pool = self.pool(kit)
        if self.selection == "nearest":
            return self.near(pool, row, kit)
        key = ("drawn", self.selection, self.k, self.seed, id(pool))
        if key not in kit.cache:
            kit.cache[key] = draw(pool, self.k, self.selection, self.seed)
        return [one for one in kit.cache[key] if one.row["text"] != row["text"]][: self.k]

    def check(self, kit: Kit) -> None:
        """Whether there are k examples, and some of each label where they are balanced."""
        if self.k and not self.varies:
            self.chosen({"text": ""}, kit)
        elif self.k:
            self.pool(kit)

    def pool(self, kit: Kit) -> Sequence[Shot]:
        """All examples that there are to choose from."""
        key = ("pool", repr(self.examples), self.file, repr(self.fields))
        if key in kit.cache:
            pool: Sequence[Shot] = kit.cache[key]
        elif self.examples is not None:
            pool = kit.cache[key] = [given(one, i) for i, one in enumerate(self.examples, 1)]
        elif self.file is not None:
            pool = kit.cache[key] = read(self.file, self.fields)
        elif kit.pool is not None:
            pool = kit.pool
        else:
            raise RequestError(f"k: {self.k} examples, but from where? Name a file of inputs and outputs: "
                               "file=examples.jsonl.")
        if len(pool) < self.k:
            raise DataError(f"{self.file or 'the examples'}: there are {len(pool)}, and k is {self.k}.")
        return pool

    def near(self, pool: Sequence[Shot], row: Row, kit: Kit) -> Sequence[Shot]:
        """The k nearest in meaning, the nearest last."""
        if kit.embed is None:
            raise RequestError("selection: nearest needs a sentence encoder, and there is none here; use random or "
                               "balanced.")
        key = ("vectors", self.encoder, id(pool))
        if key not in kit.cache:
            embed = kit.embed(self.encoder)
            kit.cache[key] = embed, embed([" ".join(one.row.values()) for one in pool])
        embed, vectors = kit.cache[key]
        (asked,) = embed([" ".join(row.values())])
        order = np.argsort(-(vectors @ asked), kind="stable")
        chosen = [pool[i] for i in order[: self.k + 1] if pool[i].row["text"] != row["text"]][: self.k]
        return chosen[::-1]

    @property
    def untrained(self) -> str:
        """Examples that each input has for itself stand in a file that a run doesn't keep."""
        return ("selection: nearest looks for other examples for each input, in a file that a run doesn't keep; use "
                "random or balanced") if self.varies else ""

    def settled(self, kit: Kit) -> Prompting:
        """The examples that were drawn, written out."""
        if not self.k:
            return self
        drawn = self.chosen({"text": ""}, kit)
        plain = [{**one.row, "answer": one.answer} for one in drawn]
        return replace(self, examples=plain, file=None, fields={}, selection="first")


def draw(pool: Sequence[Shot], count: int, how: Drawing, seed: int) -> list[Shot]:
    """So many of the pool in a random order, and a spare one; balanced: as many of each label."""
    if how == "first":
        return list(pool[: count + 1])
    rng = generator("examples", seed)
    order = rng.permutation(len(pool)).tolist()
    if how == "balanced":
        by_label: dict[str, list[int]] = {}
        for i in order:
            by_label.setdefault(pool[i].answer, []).append(i)
        if 1 < len(pool) < 2 * len(by_label):
            raise RequestError(f"selection: balanced is for labels, and {len(pool)} examples have {len(by_label)} "
                               "different answers; use random.")
        order = [i for turn in range(len(pool)) for some in by_label.values() for i in some[turn : turn + 1]]
        order = [*rng.permutation(order[:count]).tolist(), *order[count:]]
    return [pool[i] for i in order[: count + 1]]


def read(file: str, fields: Mapping[str, str | int]) -> list[Shot]:
    """The examples of a file; DataError, with file and line, where a row is none."""
    reader = open_source(Source(file, fields=dict(fields)), tables=True, at="")
    columns: dict[str, Any] = {}
    out: list[Shot] = []
    for row, place in reader.rows():
        if not columns:
            columns = find_fields(list(row), {}, {"text": INPUT, "answer": OUTPUT, "text_pair": SECOND}, reader)
            if missing := [name for name in ("text", "answer") if name not in columns]:
                raise DataError(f"{file}: which column is the {missing[0]}? There is {', '.join(map(str, row))}; say "
                                "fields={text: …, answer: …}, by name, or by number from 0 where there is no header.")
        values = {name: row.get(column) for name, column in columns.items()}
        for name, value in values.items():
            if isinstance(value, bool | list | dict) or value is None or not str(value).strip():
                raise DataError(f"{place}: the field {columns[name]!r} is no text: {value!r}.")
        said = {name: str(value).strip() for name, value in values.items()}
        out.append(Shot({name: text for name, text in said.items() if name != "answer"}, said["answer"]))
    return out


def given(one: Mapping[str, str], number: int) -> Shot:
    """An example of a recipe or a request."""
    for name in ("text", "answer"):
        if name not in one:
            raise RequestError(f"examples: the {number}. has no {name!r}; write {{text: …, answer: …}}.")
    return Shot({name: text for name, text in one.items() if name != "answer"}, one["answer"])


def spoken(verbalizer: Mapping[str, str | list[str]] | None, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The words of each label; RequestError where some have none, or words are for labels that there aren't."""
    if verbalizer is None:
        return {label: (label,) for label in labels}
    for label in verbalizer:
        if label not in labels:
            raise RequestError(f"labels: no label is called {label!r}.{nearest(label, labels)}")
    missing = [label for label in labels if label not in verbalizer]
    if missing:
        raise RequestError(f"labels: the label {missing[0]!r} has no word; say one for each of {', '.join(labels)}.")
    words = {label: (some,) if isinstance(some, str) else tuple(some) for label, some in verbalizer.items()}
    every = [word for some in words.values() for word in some]
    if not all(word.strip() for word in every) or not all(words.values()):
        raise RequestError("labels: a label's word is empty.")
    if twice := next((word for word in every if every.count(word) > 1), None):
        raise RequestError(f"labels: the word {twice!r} is there twice.")
    return {label: words[label] for label in labels}


def written(template: str, row: Row) -> str:
    """A row in a template."""
    return filled(for_pairs(template, row), row)


def for_pairs(template: str, row: Row) -> str:
    """A template in which the second text of a pair stands below the first, unless it says where."""
    if "text_pair" in row and "{text_pair}" not in template:
        return template.replace("{text}", "{text}\n{text_pair}")
    return template


def behind(first: str, text: str) -> str:
    """An instruction before a text: as it is where it ends with a space or a line, else with an empty line between."""
    return first + text if not first or first[-1].isspace() else f"{first}\n\n{text}"


def joined(text: str, word: str) -> str:
    """A prompt and its answer: a space between, unless there is one or the script has none."""
    return text + word if not text or text[-1].isspace() or text[-1] in "：" else f"{text} {word}"


def shown(examples: Sequence[Shot], kit: Kit) -> list[Shot]:
    """Examples as they are written: texts made clean, labels said in words."""
    return [Shot({name: kit.clean(text) for name, text in one.row.items()},
                    kit.words.get(one.answer, kit.clean(one.answer))) for one in examples]
