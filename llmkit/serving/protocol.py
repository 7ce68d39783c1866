"""The OpenAI API's requests and answers: what may be asked, and in what form it is answered.

A field that is unknown, or known and not served, is an error with its name: nothing is dropped in silence, except what
can't change a text (`user`, `metadata`, `store` …).
"""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from llmkit.inference.constraining.schema import OBJECT, checked
from llmkit.models.chatting.tools import parsed
from llmkit.system.errors import LlmkitError, NumberError, RequestError, device_full, nearest

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
TEXTS = ("text", "input_text", "output_text")
"""Types of a message's parts that are text, by the API's different ages."""
UNSERVED = {
    "functions": "give tools", "function_call": "give tool_choice", "audio": "the models here write text",
    "prediction": "the models here write every token", "web_search_options": "a tool of your own can search",
    "reasoning_effort": "the models here have no such setting", "verbosity": "the models here have no such setting"}
"""Fields of the API that would change an answer and aren't done here, with what to do instead."""
R = TypeVar("R", bound=BaseModel)
FULL = ("the device's memory ended at this text. Try again when fewer are being written, or ask for a shorter one, or "
        "fewer at once.")
NAMES = {"num_return_sequences": "n", "max_new_tokens": "max_tokens"}
"""What the API calls options that have another name here."""
LONG = re.compile(r"\S{200,}")
"""A word that a message needn't have whole."""
Most = Annotated[int | None, Field(ge=1), BeforeValidator(lambda given: None if given == -1 else given)]
"""Tokens to write; others' servers take -1 for as many as there is room for."""
Stop = str | Annotated[list[str], Field(max_length=16)] | None


class ApiError(Exception):
    """An error as a client gets it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        kind: str = "invalid_request_error", headers: dict[str, str] | None = None,
    ) -> None:
        message = LONG.sub(lambda word: f"{word[0][:80]}…", message)
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def told(error: Exception) -> ApiError:
    """An error as a client gets it: all of llmkit's own are below 500, for they say what the request asks too much of.

    422 where a model's numbers stopped being finite: the same request again would fail again. 503 where a GPU's memory
    ended: later, there may be room.
    """
    if isinstance(error, ApiError):
        return error
    if device_full(error):
        return ApiError(503, FULL, kind="server_error", headers={"Retry-After": "1"})
    if not isinstance(error, LlmkitError):
        return ApiError(500, "the server made a mistake; its log says which.", kind="server_error")
    message = str(error)
    for ours, theirs in NAMES.items():
        message = message.replace(ours, theirs)
    name = message.partition(":")[0]
    status = 422 if isinstance(error, NumberError) else 400
    return ApiError(status, message, param=name if name.isidentifier() else None)


def too_long(message: str, param: str | None = None) -> ApiError:
    """What is read is longer than the model or the server takes."""
    return ApiError(400, message, param=param, code="context_length_exceeded")


class _Asked(BaseModel):
    """What a client sends: `null` is what says nothing, wherever a field may be left out."""

    model_config = STRICT

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


class StreamOptions(_Asked):
    """How a stream is told."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Writing(_Asked):
    """What both ways of writing text are asked with."""

    model: str | None = None
    """Where nothing is said, the server's first model that can."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    stop: Stop = None
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: Most = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(one for one in given if one)

    @property
    def most(self) -> int | None:
        """Tokens that are asked for; none where nothing is said."""
        return self.max_tokens

    def off(self, size: int) -> dict[str, Any]:
        """Settings that are switched off, a model's own too: of a vocabulary of `size`, all is drawn from.

        Others' servers take 0 for that, and of top_k also -1.
        """
        return {**({"top_k": size} if self.top_k in (0, -1) else {}),
                **({"min_p": sys.float_info.min} if self.min_p == 0 else {})}

    def refuse(self) -> None:
        """ApiError where a field asks for what isn't done here."""
        for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, name):
                raise ApiError(
                    400, f"{name} isn't served; repetition_penalty (above 1: less of the same) is.", param=name)


class MessagePart(_Asked):
    """A part of a message: text, or what `ChatRequest.refuse` names."""

    model_config = ConfigDict(extra="ignore", strict=True)
    type: str
    text: str | None = None
    refusal: str = ""
    """What an assistant said in the place of an answer."""


class Function(_Asked):
    """A function that was called."""

    model_config = ConfigDict(extra="ignore", strict=True)
    name: str
    arguments: str | dict[str, Any]


class ToolCall(_Asked):
    """A call in a message."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(_Asked):
    """A message of a conversation. Clients send back what they got, whole: fields that say nothing are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[MessagePart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    images: Any = None
    """Ollama's way of sending them; it is refused by name."""

    def plain(self) -> dict[str, Any]:
        """As chat templates take it: the content one text, a call's arguments an object."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text or part.refusal for part in content)
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role, "content": content or ""}
        if self.tool_calls:
            message["tool_calls"] = []
            for call in self.tool_calls:
                arguments: Any = call.function.arguments
                if isinstance(arguments, str):
                    with suppress(ValueError):  # a client sends back what a model wrote
                        arguments = parsed(arguments)
                message["tool_calls"].append(
                    {"type": "function", "function": {"name": call.function.name, "arguments": arguments}})
        if self.role == "tool" and self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        return message


class ToolFunction(_Asked):
    """A function that can be called."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = Field(min_length=1)


class Tool(_Asked):
    """Something that can be called."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: ToolFunction


class SearchWish(_Asked):
    """How passages are looked for: llmkit's own."""

    top: int = Field(4, ge=1, le=50)
    least: float = Field(0.3, ge=-1, le=1)


class SearchRequest(_Asked):
    """POST /v1/search: llmkit's own."""

    query: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    top: int = Field(5, ge=1, le=50)

    @property
    def queries(self) -> list[str]:
        """One or several."""
        return [self.query] if isinstance(self.query, str) else self.query


class NamedFunction(_Asked):
    """The name of a function."""

    name: str


class NamedTool(_Asked):
    """A function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(_Writing):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Most = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    prompting: dict[str, Any] | None = None
    """llmkit's own: a prompt mode, as `{"name": "prefix", "instruction": …}`."""
    search: Annotated[SearchWish | None, BeforeValidator(
        lambda given: {} if given is True else None if given is False else given)] = None
    """llmkit's own: answer by passages of the files that the server searches."""
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    @property
    def most(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @cached_property
    def form(self) -> str | None:
        """The schema that the answer is held to, as JSON; None: any text. ApiError where it isn't one."""
        return None if self.response_format is None else schema_of(self.response_format)

    @property
    def names(self) -> list[str]:
        """What may be called."""
        return [] if self.tool_choice == "none" else [tool.function.name for tool in self.tools or []]

    def refuse(self) -> None:
        super().refuse()
        if others := [one for one in self.modalities or () if one.lower() != "text"]:
            raise ApiError(400, f"modalities: {others[0]} isn't served: the models here write text.",
                           param="modalities")
        for i, message in enumerate(self.messages):
            self._refuse_all_but_text(i, message)
        if self.form is not None and self.names:
            raise ApiError(400, "response_format: JSON goes with no tools, whose calls have a form of their own; leave "
                           "one of them out.", param="response_format")
        if self.search is not None and (self.names or self.prompting is not None):
            raise ApiError(400, "search: goes with no tools and no prompting; leave one of them out.", param="search")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in self.names:
            raise ApiError(400, f"tool_choice: no tool is called {self.tool_choice.function.name!r}."
                           + nearest(self.tool_choice.function.name, self.names), param="tool_choice")
        if self.tool_choice == "required" and not self.names:
            raise ApiError(400, "tool_choice: required, but there are no tools.", param="tool_choice")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true.", param="top_logprobs")

    def _refuse_all_but_text(self, i: int, message: Message) -> None:
        """ApiError where a message holds an image, sound or a file, or nothing where only an assistant may."""
        if message.images:
            raise ApiError(400, f"messages[{i}].images: images aren't served: the models here read text.",
                           param=f"messages[{i}].images")
        if message.content is None and message.role != "assistant":
            raise ApiError(400, f"messages[{i}].content is missing.", param=f"messages[{i}].content",
                           code="missing_required_parameter")
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            where = f"messages[{i}].content[{j}]"
            if part.type not in (*TEXTS, "refusal"):
                raise ApiError(400, f"{where}: {part.type} isn't served: the models here read text.",
                               param=f"{where}.type")
            if part.type in TEXTS and part.text is None:
                raise ApiError(400, f"{where}.text is missing.", param=f"{where}.text",
                               code="missing_required_parameter")


def schema_of(response_format: Mapping[str, Any]) -> str | None:
    """The schema of `{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {"schema": {…}}}`, as JSON.

    None of `{"type": "text"}`. ApiError with the path of what is wrong with it.
    """
    kind = response_format.get("type")
    if kind == "text":
        return None
    where, given = "response_format", json.loads(OBJECT)
    if kind == "json_schema":
        for name in ("json_schema", "schema"):
            inside = response_format if name == "json_schema" else given
            where, given = f"{where}.{name}", inside.get(name)
            if not isinstance(given, dict):
                raise ApiError(400, f"{where} is missing; it must be an object.", param=where,
                               code="missing_required_parameter")
    elif kind != "json_object":
        kinds = ("text", "json_object", "json_schema")
        raise ApiError(400, f"response_format.type: {str(kind)[:80]!r} is none of {', '.join(kinds)}."
                       f"{nearest(str(kind)[:80], kinds)}", param="response_format.type")
    try:
        return checked(given, where)
    except RequestError as error:
        raise ApiError(400, str(error), param=str(error).partition(": ")[0]) from error


class CompletionRequest(_Writing):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int | None, Field(ge=0, le=20), BeforeValidator(
        lambda given: None if given is False else given)] = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or several, each a text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]

    def refuse(self) -> None:
        super().refuse()
        if not self.prompts:
            raise ApiError(400, "prompt: there is none.", param="prompt")
        if self.suffix:
            raise ApiError(400, "suffix isn't served: the models here write from left to right.", param="suffix")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ApiError(400, "best_of isn't served: ask for n texts and choose.", param="best_of")
        if self.echo and self.logprobs is not None:
            raise ApiError(400, "echo with logprobs isn't served: probabilities are of what is written.", param="echo")


class EmbeddingRequest(_Asked):
    """POST /v1/embeddings."""

    model: str | None = None
    input: str | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1, max_length=2048)]
    """A text or several, or the ids of one or several, of the model's own tokenizer and without special tokens."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: Any = None

    @property
    def texts(self) -> Sequence[str | list[int]]:
        """One or several, each a text or ids."""
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if isinstance(self.input[0], int) else self.input


def parse(kind: type[R], body: bytes) -> R:
    """A request of a kind. ApiError: the first thing that is wrong with it."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _said(kind, error) from error


def _said(kind: type[BaseModel], error: ValidationError) -> ApiError:
    """What is wrong, in words, with the field that it is wrong with."""
    wrong = error.errors(include_url=False)
    first = wrong[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body isn't JSON: {first['ctx']['error']}.")
    param = place(first["loc"])
    if not param:
        return ApiError(400, "the body isn't an object: the fields of a request stand in braces.")
    if first["type"] == "extra_forbidden" and param in UNSERVED:
        return ApiError(400, f"{param} isn't served: {UNSERVED[param]}.", param=param, code="unsupported_parameter")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"no field is called {param!r}.{nearest(param, kind.model_fields)}", param=param,
                        code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing.", param=param, code="missing_required_parameter")
    # a field of several types has been tried as each of them
    ways = dict.fromkeys(one["msg"].removeprefix("Input ") for one in wrong if place(one["loc"]) == param)
    given = first["input"] if isinstance(first["input"], str | int | float | bool | None) else None
    shown = "" if given is None else f" {str(given)[:80]!r}"
    return ApiError(400, f"{param}:{shown} {', or '.join(ways)}.", param=param)


def place(path: Sequence[int | str]) -> str:
    """A field as a client knows it: `messages[0].role`."""
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path if part not in _BRANCHES)
    return re.sub(r"\.\w*[^\w.\[\]].*", "", named).lstrip(".")


_BRANCHES = {"str", "int", "float", "NamedTool", "list[str]", "list[int]", "list[list[int]]"}
"""What pydantic calls the branches of a union, which are no fields."""


# --- answers ---

def identifier(kind: str) -> str:
    """A name of its own for an answer: `chatcmpl-…`."""
    return f"{kind}-{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def usage(prompt: int, written: int) -> dict[str, int]:
    """Tokens read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
