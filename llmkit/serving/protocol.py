"""The OpenAI API's requests and answers: what may be asked, and in what form it is answered.

A field that is unknown, or known and not served, is an error with its name: nothing is dropped in silence, except what
can't change a text (`user`, `metadata`, `store` …).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmkit.system.errors import nearest

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
R = TypeVar("R", bound=BaseModel)
LONG = re.compile(r"\S{200,}")
"""A word that a message needn't have whole."""
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


class StreamOptions(BaseModel):
    """How a stream is told."""

    model_config = STRICT
    include_usage: bool = False
    include_obfuscation: bool = False


class _Writing(BaseModel):
    """What both ways of writing text are asked with."""

    model_config = STRICT
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
    max_tokens: int | None = Field(None, ge=1)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(one for one in given if one)

    def refuse(self) -> None:
        """ApiError where a field asks for what isn't done here."""
        for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, name):
                raise ApiError(
                    400, f"{name} isn't served; repetition_penalty (above 1: less of the same) is.", param=name)


class MessagePart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="ignore", strict=True)
    type: Literal["text"]
    text: str


class Function(BaseModel):
    """A function that was called."""

    model_config = ConfigDict(extra="ignore", strict=True)
    name: str
    arguments: str | dict[str, Any]


class ToolCall(BaseModel):
    """A call in a message."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """A message of a conversation. Clients send back what they got, whole: fields that say nothing are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[MessagePart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """As chat templates take it: the content one text, a call's arguments an object."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role, "content": content or ""}
        if self.tool_calls:
            message["tool_calls"] = []
            for call in self.tool_calls:
                arguments: Any = call.function.arguments
                if isinstance(arguments, str):
                    with suppress(json.JSONDecodeError):  # a client sends back what a model wrote
                        arguments = json.loads(arguments)
                message["tool_calls"].append(
                    {"type": "function", "function": {"name": call.function.name, "arguments": arguments}})
        if self.role == "tool" and self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        return message


class ToolFunction(BaseModel):
    """A function that can be called."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = Field(min_length=1)


class Tool(BaseModel):
    """Something that can be called."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: ToolFunction


class NamedFunction(BaseModel):
    """The name of a function."""

    model_config = STRICT
    name: str


class NamedTool(BaseModel):
    """A function that must be called."""

    model_config = STRICT
    type: Literal["function"]
    function: NamedFunction


class ChatRequest(_Writing):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    prompting: dict[str, Any] | None = None
    """llmkit's own: a prompt mode, as `{"name": "prefix", "instruction": …}`."""
    response_format: dict[str, Any] | None = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def names(self) -> list[str]:
        """What may be called."""
        return [] if self.tool_choice == "none" else [tool.function.name for tool in self.tools or []]

    def refuse(self) -> None:
        super().refuse()
        if self.response_format and self.response_format.get("type") != "text":
            raise ApiError(400, "response_format: only text is served; ask for JSON in words, or give a tool.",
                           param="response_format")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in self.names:
            raise ApiError(400, f"tool_choice: no tool is called {self.tool_choice.function.name!r}."
                           + nearest(self.tool_choice.function.name, self.names), param="tool_choice")
        if self.tool_choice == "required" and not self.names:
            raise ApiError(400, "tool_choice: required, but there are no tools.", param="tool_choice")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true.", param="top_logprobs")


class CompletionRequest(_Writing):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20)
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


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings."""

    model_config = STRICT
    model: str | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: Any = None


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


_BRANCHES = {"str", "int", "float", "NamedTool"}
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
