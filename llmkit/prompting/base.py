"""The contract of a prompt mode: an input goes in, a prompt comes out, and nothing is trained."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmkit.models.chatting import templates
from llmkit.recipe.promises import MODE
from llmkit.recipe.seams import PromptMode
from llmkit.recipe.watching import lacking, watch
from llmkit.system.errors import RequestError

Row = Mapping[str, str]
"""An input: {"text": …}, and of a pair {"text", "text_pair"}."""
Message = dict[str, str]
"""{"role": "user", "content": "Hello"}"""
Embed = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
"""Texts to (texts, width): the nearer two are in meaning, the greater their product."""

LEAST = 8
"""Tokens of an input below which cutting it makes no sense."""


@dataclass(frozen=True)
class Shot:
    """An input and what is to be said of it."""

    row: Row
    answer: str


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it answers."""

    text: str
    """Up to where the answer starts; of a chat model, with its template around."""
    after: str = ""
    """Of a gap in a text, what stands behind it."""
    gap: bool = False
    """Whether the answer fills a gap (cloze); else it follows."""
    messages: tuple[Message, ...] | None = None
    """The prompt as the turns of a conversation, for a chat template; None where the model is given plain text."""
    examples: int = 0
    """Examples in it."""

    def filled(self, word: str) -> str:
        """The whole text with a word in the gap."""
        return self.text + word + self.after


@dataclass(frozen=True)
class Question:
    """A prompt, and the answers whose probabilities are asked for."""

    prompt: Prompt
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """What is done to the probabilities of answers before they are compared."""

    length: bool = False
    """Mean log-probability a token instead of their sum."""
    pmi: bool = False
    """Minus what the answer has without the input."""
    calibration: tuple[str, ...] = ()
    """Inputs that say nothing; what a label has after them is divided out."""


@dataclass
class Kit:
    """What a mode is given beside the input: the model's tokenizer and room, and where examples come from."""

    tokenizer: Any
    """None where examples are drawn and nothing is written."""
    shape: str = "decoder"
    """decoder, encoder-decoder or encoder."""
    chat: bool = False
    """Whether the prompt goes through the tokenizer's chat template."""
    room: int | None = None
    """Tokens that a prompt may have."""
    cuts: bool = False
    """Whether an input that is too long by itself loses its end; else it is left to the model to refuse it."""
    embed: Callable[[str], Embed] | None = None
    """Opens a sentence encoder by its name, for the examples that are nearest in meaning."""
    pool: Sequence[Shot] | None = None
    """Examples to choose from where the mode names none itself: the training rows of a recipe."""
    clean: Callable[[str], str] = str
    """What every text goes through first."""
    words: Mapping[str, str] = field(default_factory=dict)
    """How the answer of an example is written, where it is a label: {"1": "positive"}."""
    dropped: dict[str, int] = field(default_factory=lambda: {"prompts": 0, "examples": 0, "inputs": 0})
    """Prompts made, those that have fewer examples than they should, and those whose input was cut."""
    cache: dict[Any, Any] = field(default_factory=dict)
    """What modes keep between two inputs: files that were read, what was drawn of them."""

    def render(self, messages: Sequence[Message]) -> str:
        """Messages in the tokenizer's template, up to where the answer starts; RequestError where it takes none."""
        from jinja2.exceptions import TemplateError

        try:
            return str(templates.apply(
                self.tokenizer, [dict(one) for one in messages], tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise RequestError(f"the tokenizer's chat template refuses this prompt: {error}. Use raw: true, or "
                               "role: user.") from error

    def size(self, prompt: Prompt) -> int:
        """Tokens of a prompt."""
        special = prompt.messages is None
        return len(self.tokenizer(prompt.filled("") if prompt.gap else prompt.text,
                                  add_special_tokens=special, verbose=False)["input_ids"])

    def fitted(self, make: Callable[[Sequence[Shot], Row], Prompt], examples: Sequence[Shot], row: Row) -> Prompt:
        """The prompt with as many of the examples as there is room for; the first go first, the last stay longest."""
        self.dropped["prompts"] += 1
        prompt = make(examples, row)
        if self.room is None or (size := self.size(prompt)) <= self.room:
            return prompt
        if examples:  # the fewer there are, the shorter it is
            room, every = self.room, range(1, len(examples))
            first = 1 + bisect_left(every, True, key=lambda first: self.size(make(examples[first:], row)) <= room)
            prompt = make(examples[first:], row)
            size = self.size(prompt)
        self.dropped["examples"] += bool(examples)
        if size <= self.room or not self.cuts:
            return prompt
        self.dropped["inputs"] += 1
        longest = max(row, key=lambda name: len(row[name]))
        edges = self.tokenizer(row[longest], add_special_tokens=False, return_offsets_mapping=True,
                               verbose=False)["offset_mapping"]
        keep = len(edges)
        while (keep := keep - (size - self.room)) >= LEAST:
            prompt = make((), {**row, longest: row[longest][: edges[keep - 1][1]]})
            if (size := self.size(prompt)) <= self.room:
                return prompt
        alone = self.size(make((), {**row, longest: ""}))
        raise RequestError(f"the prompt without its input has {alone} tokens, and there is room for {self.room}; make "
                           "its instruction or template shorter.")

    def notes(self, wanted: int) -> list[str]:
        """What was left out of the prompts that were made, in words."""
        made, fewer, cut = (self.dropped[name] for name in ("prompts", "examples", "inputs"))
        out = []
        if fewer:
            out.append(f"{fewer:,} of {made:,} prompts have fewer than {wanted} examples: the model has room for "
                       f"{self.room} tokens of prompt")
        if cut:
            out.append(f"{cut:,} of {made:,} inputs were cut to fit")
        return out


class Prompting:
    """How an input becomes a prompt; its dataclass fields are its options.

    A mode never looks at the answer of the input that it asks about. What is drawn depends on its `seed` alone (and,
    where it looks for what is nearest, on the input).
    """

    turns: ClassVar[bool] = False
    """Whether it asks for the input of an output."""

    def __init_subclass__(cls) -> None:
        """People's own are looked at as they are called."""
        super().__init_subclass__()
        watch(cls, MODE)

    @property
    def untrained(self) -> str:
        """Why it can't stand around the texts of a task that is trained; "" where it can."""
        return ""

    @property
    def named(self) -> tuple[str, ...] | None:
        """The labels that it has words for; None where each is said by its own name."""
        return None

    @property
    def scores(self) -> Scores:
        """What is done to the probabilities of labels."""
        return Scores()

    @property
    def wants(self) -> int:
        """How many examples a prompt should have."""
        return 0

    @property
    def drawn(self) -> bool:
        """Whether another seed gives other prompts."""
        return False

    @property
    def varies(self) -> bool:
        """Whether each input has examples of its own."""
        return False

    def reseeded(self, seed: int) -> Prompting:
        """A copy of it with another seed."""
        return self

    def bare(self) -> Prompting:
        """A copy of it without examples."""
        return self

    def chats(self, kit: Kit) -> bool:
        """Whether its prompts go through a chat template, where the model has one."""
        return False

    def check(self, kit: Kit) -> None:
        """Look at what examples are chosen from before a model is opened: an error where it won't do."""

    def prompt(self, row: Row, kit: Kit) -> Prompt:
        """The prompt for an input."""
        raise lacking(self, "prompt", MODE)

    def words(self, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """How each label is said: one word, or several that mean the same."""
        return {label: (label,) for label in labels}

    def questions(self, row: Row, words: Sequence[str], kit: Kit) -> list[Question]:
        """What a model is asked to tell the words' labels apart: questions with as many answers in all as words."""
        return [Question(self.prompt(row, kit), tuple(words))]

    def settled(self, kit: Kit) -> Prompting:
        """A copy of it with nothing left to be read from elsewhere, as a run keeps it."""
        return self


class Around:
    """Puts a task's texts into their prompts, as plain text."""

    def __init__(self, mode: PromptMode, kit: Kit) -> None:
        self.mode, self.kit = mode, kit

    def __call__(self, row: Row) -> str:
        return self.mode.prompt(row, self.kit).text

    def notes(self) -> list[str]:
        """What was left out to fit, in words."""
        return self.kit.notes(self.mode.wants)


def generator(*parts: object) -> np.random.Generator:
    """Chance that is a function of what it is for."""
    digest = hashlib.blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
