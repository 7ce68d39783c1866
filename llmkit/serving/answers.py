"""Answers in the forms of the OpenAI API: a chat's and a completion's, in chunks and as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmkit.inference.writing.completion import Scored
from llmkit.serving import tools
from llmkit.serving.jobs import End, Piece
from llmkit.serving.protocol import CompletionRequest, identifier, now
from llmkit.serving.requests import TextRequest


class Answer:
    """How a kind of answer is told: in chunks, and as a whole."""

    kind: str
    """What its identifier begins with."""

    def __init__(self, name: str, texts: int) -> None:
        self.name, self.id, self.created = name, identifier(self.kind), now()
        self.texts = ["" for _ in range(texts)]
        self.reasons: list[str] = [""] * texts
        self.chosen: list[list[Scored]] = [[] for _ in range(texts)]

    def frame(self, object_: str, choices: list[Any]) -> dict[str, Any]:
        """What surrounds choices."""
        return {"id": self.id, "object": object_, "created": self.created, "model": self.name, "choices": choices}

    def begin(self) -> list[dict[str, Any]]:
        """Chunks before the first token."""
        return []

    def chunks(self, number: int, event: Piece | End) -> list[dict[str, Any]]:
        """Chunks that tell of an event."""
        raise NotImplementedError

    def hear(self, number: int, event: Piece | End) -> None:
        """Keep an event for the whole."""
        if isinstance(event, End):
            self.reasons[number] = event.reason
            return
        self.texts[number] += event.text
        if event.chosen:
            self.chosen[number].append(event.chosen)

    def whole(self) -> dict[str, Any]:
        """The answer, all events heard."""
        raise NotImplementedError


class ChatAnswer(Answer):
    """chat.completion, and its chunks."""

    kind = "chatcmpl"

    def __init__(self, name: str, text: TextRequest, names: Sequence[str]) -> None:
        super().__init__(name, text.count)
        self.names = names
        self.notes: dict[str, Any] = {"notes": list(text.notes)} if text.notes else {}
        if text.passages is not None:
            self.notes["passages"] = list(text.passages)
        self.asks = text.wish.options.logprobs is not None
        self.holding = [tools.Holding() for _ in range(text.count)] if names else []
        self.texts = [text.begun] * text.count
        for holding in self.holding:
            holding.add(text.begun)

    def begin(self) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": ""}
        return [{**self._chunk(number, role), **self.notes} for number in range(len(self.texts))]

    def chunks(self, number: int, event: Piece | End) -> list[dict[str, Any]]:
        if isinstance(event, Piece):
            text = self.holding[number].add(event.text) if self.holding else event.text
            logprobs = [self._logprob(event.chosen)] if event.chosen else []
            return [self._chunk(number, {"content": text}, logprobs=logprobs)] if text or logprobs else []
        rest, found = tools.calls(self.holding[number].held, self.names) if self.holding else ("", [])
        out = [self._chunk(number, {"content": rest})] if rest else []
        for i, call in enumerate(found):
            out.append(self._chunk(number, {"tool_calls": [{"index": i, **_call(call)}]}))
        return [*out, self._chunk(number, {}, "tool_calls" if found else event.reason)]

    def whole(self) -> dict[str, Any]:
        choices = []
        for number, text in enumerate(self.texts):
            said, found = tools.calls(text, self.names) if self.names else (text, [])
            message: dict[str, Any] = {"role": "assistant", "content": said if said or not found else None}
            if found:
                message["tool_calls"] = [_call(call) for call in found]
            choices.append({
                "index": number, "message": message, "finish_reason": "tool_calls" if found else self.reasons[number],
                "logprobs": {"content": [self._logprob(one) for one in self.chosen[number]]} if self.asks else None})
        return {**self.frame("chat.completion", choices), **self.notes}

    def _chunk(
        self, number: int, delta: dict[str, Any], reason: str | None = None, logprobs: Sequence[Any] = ()
    ) -> dict[str, Any]:
        return self.frame("chat.completion.chunk", [{
            "index": number, "delta": delta, "finish_reason": reason,
            "logprobs": {"content": list(logprobs)} if logprobs else None}])

    def _logprob(self, chosen: Scored) -> dict[str, Any]:
        likeliest = zip(chosen.likeliest, chosen.likeliest_raw, strict=True)
        return {**_token(chosen.token, chosen.logprob, chosen.raw),
                "top_logprobs": [_token(*one, raw) for one, raw in likeliest]}


class CompletionAnswer(Answer):
    """text_completion, whose chunks have the same form."""

    kind = "cmpl"

    def __init__(self, name: str, texts: Sequence[TextRequest], request: CompletionRequest) -> None:
        super().__init__(name, sum(one.count for one in texts))
        self.asks = request.logprobs is not None
        if request.echo:
            tokenizer = texts[0].model.writer.opened.tokenizer
            prompts = [one if isinstance(one, str) else str(tokenizer.decode(one)) for one in request.prompts]
            self.texts = [prompt for prompt, one in zip(prompts, texts, strict=True) for _ in range(one.count)]
        self.before = [len(text) for text in self.texts]
        """Characters of the prompt, where it is told too."""
        self.notes = {"notes": notes} if (notes := [note for one in texts for note in one.notes]) else {}

    def begin(self) -> list[dict[str, Any]]:
        told = [self._choice(number, text, None) for number, text in enumerate(self.texts) if text or self.notes]
        return [{**chunk, **self.notes} for chunk in told]

    def chunks(self, number: int, event: Piece | End) -> list[dict[str, Any]]:
        if isinstance(event, End):
            return [self._choice(number, "", event.reason)]
        logprobs = self._logprobs(number, [event.chosen]) if event.chosen else None
        return [self._choice(number, event.text, None, logprobs)] if event.text or logprobs else []

    def whole(self) -> dict[str, Any]:
        choices = [
            self._one(number, text, self.reasons[number],
                      self._logprobs(number, self.chosen[number]) if self.asks else None)
            for number, text in enumerate(self.texts)]
        return {**self.frame("text_completion", choices), **self.notes}

    def _choice(self, number: int, text: str, reason: str | None, logprobs: Any = None) -> dict[str, Any]:
        return self.frame("text_completion", [self._one(number, text, reason, logprobs)])

    def _one(self, number: int, text: str, reason: str | None, logprobs: Any) -> dict[str, Any]:
        return {"index": number, "text": text, "finish_reason": reason, "logprobs": logprobs}

    def _logprobs(self, number: int, chosen: Sequence[Scored]) -> dict[str, Any]:
        return {
            "tokens": [_named(one.token, one.raw) for one in chosen],
            "token_logprobs": [one.logprob for one in chosen],
            "text_offset": [self.before[number] + one.offset for one in chosen],
            "top_logprobs": [
                {_named(text, raw): logprob for (text, logprob), raw in zip(one.likeliest, one.likeliest_raw,
                                                                            strict=True)} for one in chosen]}


def _named(text: str, raw: bytes) -> str:
    r"""A token as OpenAI's completions name it: one that is a part of a character is `bytes:\xe4`."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
    return text


def _token(text: str, logprob: float, raw: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(raw)}


def _call(call: tools.Call) -> dict[str, Any]:
    return {"id": identifier("call"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
