"""A conversation with a model: who said what, how much of it still fits into the model, and the next answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from llmkit import models
from llmkit.data.sources import Place
from llmkit.inference.writing.completion import Completion
from llmkit.inference.writing.context import positions
from llmkit.inference.writing.memory import PrefixMemory
from llmkit.inference.writing.opening import WRITERS, check_numbers
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.reading import harmless
from llmkit.inference.writing.writer import Writer
from llmkit.models.base import Base
from llmkit.models.families import family_named
from llmkit.models.run import recipe_of
from llmkit.objectives.base import Setup
from llmkit.recipe import Recipe
from llmkit.system.addresses import at_home
from llmkit.system.errors import DataError, PlaceError, RequestError, nearest
from llmkit.system.terminal import shell_word
from llmkit.tasks.instruction import Instruction
from llmkit.tasks.shared.conversation import Message, conversation
from llmkit.tasks.shared.writing import special

USUAL = Options(max_new_tokens=512)
"""How answers are written where nothing else is said."""
AGAIN = 0.8
"""The temperature of another try, where the likeliest answer would be the same again."""
FIXED = ("num_return_sequences", "logprobs")
"""Options of writing that a conversation has no use for."""


@dataclass
class Chat:
    """A conversation with an open model. Of its turns, those from `start` on still fit into the model's context."""

    writer: Writer
    learned: Recipe | None = None
    """The recipe of a run."""
    options: Options = USUAL
    system: str | None = None
    """What the model is told before the conversation."""
    turns: list[Message] = field(default_factory=list)
    """[{"role": "user", "content": "Hello"}, {"role": "assistant", …}, …]"""
    start: int = 0
    tries: int = 0
    """How often the last answer was asked for again."""
    memory: PrefixMemory = field(default_factory=PrefixMemory)
    files: set[Path] = field(default_factory=set)
    """Files that this conversation was saved to or is from."""

    @classmethod
    def open(cls, model: str, options: Options, system: str | None = None, dtype: str | None = None) -> Chat:
        """Open a model for a conversation, in the numbers that are fast here or in `dtype` (`Writer.open`).

        RequestError, before its weights are read, where it was made for none: a model needs a chat template, or to be a
        run of `instruction`.
        """
        check_numbers(dtype)
        folder, learned = models.resolve(model), recipe_of(model)
        kind = models.kind_of(folder)
        if kind not in WRITERS:
            raise RequestError(f"{model} writes no text: it is opened as {kind}. Name a chat model, or leave --model "
                               "out.")
        told = learned is not None and learned.task is not None and learned.task.verb == Instruction.verb
        if not told and not (kind == "AutoModelForCausalLM" and models.chats(folder)):
            raise RequestError(
                f"{model} has no chat template: it goes on with a text and doesn't know that it is spoken to. Let it "
                f"go on, `llmkit generate 'Once upon a time' --model {shell_word(model)}`, or train it to "
                f"answer, `llmkit finetune --task instruction --model {shell_word(model)} --data FILE`.")
        chat = cls(Writer.open(model, dtype=dtype), learned, options)
        chat.instruct(system)
        return chat

    # ---- turns ----

    def say(
        self, text: str, stream: Callable[[str], None] | None = None, stopped: Callable[[], bool] | None = None,
    ) -> Completion:
        """Say something; the answer comes back, and both are part of the conversation.

        stream    gets the answer piece by piece
        stopped   is asked after each token; once it is true, the answer is what is there

        RequestError where it doesn't fit into the model's context even alone: then it counts as not said.
        """
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()  # it was stopped before there was an answer
        self.turns.append({"role": "user", "content": text})
        self.tries = 0
        try:
            ids = self.fitting()
        except RequestError:
            self.turns.pop()
            raise
        return self._answer(ids, self.options, stream, stopped)

    def retry(
        self, stream: Callable[[str], None] | None = None, stopped: Callable[[], bool] | None = None,
    ) -> Completion:
        """Another answer to what was said last: drawn at random, for the likeliest one is there already."""
        if self.turns and self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        if not self.turns:
            raise RequestError("nothing was said yet that could be answered again.")
        self.tries += 1
        own = self.writer.opened.model.generation_config
        drawn = own is not None and self.options.config(own, [], 0).do_sample
        options = self.options if drawn else replace(self.options, do_sample=None, temperature=AGAIN)
        return self._answer(self.fitting(), options, stream, stopped)

    def _answer(
        self, ids: list[int], options: Options, stream: Callable[[str], None] | None,
        stopped: Callable[[], bool] | None,
    ) -> Completion:
        tokenizer = self.writer.opened.tokenizer
        # a template's end of a turn may be none of the ends that the model's config knows
        ends = special(tokenizer) - {tokenizer.unk_token_id}
        pieces = None if stream is None else lambda _, piece: stream(piece)
        (made,), = self.writer.write([ids], options, stream=pieces, stopped=stopped, numbers=[self.tries], ends=[ends],
                                     memory=self.memory)
        if made.text.strip():
            self.turns.append({"role": "assistant", "content": made.text.strip()})
        return made

    def instruct(self, system: str | None) -> None:
        """Tell the model something before the conversation; None: nothing. RequestError where its template refuses."""
        before, self.system = self.system, system or None
        try:
            self._ids([*self._head(), {"role": "user", "content": "Hello"}])
        except RequestError:
            self.system = before
            raise

    def reset(self) -> None:
        """Start again; the system prompt stays."""
        self.turns, self.start = [], 0

    # ---- what the model sees ----

    def fitting(self) -> list[int]:
        """The tokens of the conversation, without its oldest turns where it is longer than the model's context.

        An answer keeps room: what it may have at most, or a quarter of the context where that is less.
        """
        limit = positions(self.writer.opened)
        while True:
            ids = self._ids([*self._head(), *self.turns[self.start:]])
            if limit is None:
                return ids
            room = 0 if self.writer.reads else min(self.options.max_new_tokens, limit // 4)
            if len(ids) + self.writer.opened.virtual_tokens + room <= limit:
                return ids
            later = (i for i in range(self.start + 1, len(self.turns)) if self.turns[i]["role"] == "user")
            following = next(later, None)
            if following is None:
                self.writer.room(len(ids), 1)  # an error, where the last turn doesn't fit even alone
                return ids
            self.start = following

    def _head(self) -> list[Message]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        """Messages in the chat template, or as the run learned conversations where its tokenizer has none."""
        task = None if self.learned is None else self.learned.task
        if self.writer.chats or self.learned is None or task is None:
            return self.writer.ids(messages)
        family = family_named(str(self.learned.backbone.family), Base.open(self.writer.opened.folder))
        whole = Setup(self.writer.opened.tokenizer, family, 2**31, "none", 0)
        talk = harmless(whole.tokenizer, [dict(message) for message in messages])
        (features,) = task.encode([({"messages": talk}, Place("the conversation", None))], whole, [])
        ids: list[int] = features["input_ids"].tolist()
        return ids

    # ---- settings ----

    def set(self, name: str, written: str) -> None:
        """Change how answers are written: `temperature`, `0.7`; `default` gives the model its own way back."""
        from pydantic import TypeAdapter, ValidationError

        known = {one.name: one for one in fields(Options) if one.name not in FIXED}
        if name not in known:
            raise RequestError(f"no setting is called {name!r}.{nearest(name, known)}")
        value: Any
        if written in ("default", "none"):
            value = getattr(USUAL, name)
        elif name == "stop":
            value = (written,)
        else:
            try:
                value = TypeAdapter(get_type_hints(Options)[name]).validate_python(written)
            except ValidationError as error:
                said = str(error.errors()[0]["msg"])
                raise RequestError(f"{name}: {written!r} can't be: {said[0].lower()}{said[1:]}.") from error
        self.options = replace(self.options, **{name: value})

    def settings(self) -> dict[str, Any]:
        """What is set: names and values, of those that aren't left to the model."""
        return {one.name: value for one in fields(Options) if one.name not in FIXED
                and (value := getattr(self.options, one.name)) not in (None, ())}

    # ---- files ----

    def save(self, path: str) -> None:
        """Write the whole conversation as JSON, [{"role": …, "content": …}, …], the system prompt first.

        PlaceError where the file can't be written, or holds something that isn't from this conversation.
        """
        place = at_home(path)
        if place.exists() and place.resolve() not in self.files:
            raise PlaceError(f"{path}: is there already, and not from this conversation; name another file.")
        try:
            place.write_text(json.dumps(self.messages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise PlaceError(f"{path}: {error.strerror}.") from error
        self.files.add(place.resolve())

    def load(self, path: str) -> None:
        """Go on with a conversation that was saved: [{"role": …, "content": …}, …], or {"messages": […]}."""
        place = at_home(path)
        try:
            found = json.loads(place.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is no JSON: {error}.") from error
        messages = conversation(found.get("messages") if isinstance(found, dict) else found, "messages",
                                Place(path, None))
        system = None
        if messages[0]["role"] == "system":
            system, messages = messages[0]["content"], messages[1:]
        self.instruct(system)
        self.turns, self.start, self.tries = messages, 0, 0
        self.files.add(place.resolve())

    @property
    def messages(self) -> list[Message]:
        """The system prompt, and all turns."""
        return [*self._head(), *self.turns]
