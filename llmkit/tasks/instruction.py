"""Instruction tuning: a prompt is given, the answer is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Features
from llmkit.data.sources import Place, Reader, find_fields
from llmkit.data.tokens import encode
from llmkit.errors import DataError
from llmkit.objectives.base import Setup, token
from llmkit.registry import OPTIONS
from llmkit.tasks.base import Row, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(config=OPTIONS)
class Instruction(Task):
    """Answer a prompt; the loss is on the answer only, and the tokenizer's chat template is used where it has one."""

    template: str = "{prompt}\n"
    """How a prompt is written for a tokenizer without a chat template; the answer follows it."""

    shapes = frozenset({"decoder", "encoder-decoder"})
    head = "AutoModelForCausalLM"
    wanted = {
        "prompt": ("instruction", "question", "query", "input", "text", "document", "source"),
        "response": ("output", "answer", "completion", "summary", "target", "chosen"),
    }
    optional = {"context": ("input",)}

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template must contain {prompt}")

    def head_for(self, family: type[Family]) -> str:
        """Encoder-decoders read the prompt with the encoder and write the answer with the decoder."""
        return "AutoModelForSeq2SeqLM" if family.shape == "encoder-decoder" else self.head

    def columns(self, row: Mapping[Any, Any], reader: Reader) -> dict[str, str | int]:
        """Alpaca's `input` belongs to its `instruction`; alone, it is the prompt."""
        columns = find_fields(list(row), self.wanted, self.optional, reader)
        if columns.get("context") == columns["prompt"]:
            del columns["context"]
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Both sides are texts."""
        row = super().check(row, columns, place)
        for name, value in row.items():
            if value is not None and not isinstance(value, str):
                raise DataError(f"{place}: the field {columns[name]!r} is no text: {value!r}.")
        context = row.pop("context", None)
        return {**row, "prompt": f"{row['prompt']}\n{context}" if context and context.strip() else row["prompt"]}

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Prompt and answer as one row for a decoder; as encoder input and decoder output for an encoder-decoder.

        [prompt] [answer] </s>  ->  labels at the answer and its end only
        """
        tokenizer = setup.tokenizer
        end = token(tokenizer, "eos", "instruction")
        if setup.family.shape == "encoder-decoder":
            token(tokenizer, "pad", "instruction")  # most decoders start from it
            start = setup.family.decoder_start(tokenizer)
        prompts = encode(tokenizer, [self.ask(row["prompt"], tokenizer) for row, _ in rows])
        answers = [[*ids, end] for ids in encode(tokenizer, [row["response"].strip() for row, _ in rows])]
        begin = [tokenizer.bos_token_id] if _begins(tokenizer) else []
        out: list[Features] = []
        for prompt, answer, (_, place) in zip(prompts, answers, rows, strict=True):
            if setup.family.shape == "encoder-decoder":
                read, write = [*prompt, end], answer
                lost = max(0, len(read) - setup.max_length) + max(0, len(write) - setup.max_length)
                if len(read) > setup.max_length:
                    read = [*read[: setup.max_length - 1], end]
                write = write[: setup.max_length]
                labels = np.array(write)
                features: Features = {
                    "input_ids": np.array(read), "labels": labels, "documents": np.zeros(len(read), dtype=np.int64),
                    "decoder_input_ids": np.concatenate([[start], labels[:-1]]),
                    "decoder_documents": np.zeros(len(labels), dtype=np.int64)}
            else:
                asked = [*begin, *prompt]
                ids = np.array([*asked, *answer])
                lost = max(0, len(ids) - 1 - setup.max_length)
                if len(asked) > setup.max_length:
                    raise DataError(f"{place}: the prompt alone has {len(asked)} tokens; data.max_length is "
                                    f"{setup.max_length}.")
                labels = np.concatenate([np.full(len(asked), -100), ids[len(asked):]])[1 : setup.max_length + 1]
                features = {"input_ids": ids[:-1][: setup.max_length], "labels": labels}
                features["documents"] = np.zeros_like(features["input_ids"])
            if lost:
                cut.append(lost)
            out.append(features)
        return out

    def ask(self, prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """A prompt as the model is asked it, up to where its answer starts."""
        if tokenizer.chat_template is None:
            return self.template.replace("{prompt}", prompt)
        turns = [{"role": "user", "content": prompt}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _begins(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts a begin token before a text that has no chat template around it."""
    if tokenizer.chat_template is not None or tokenizer.bos_token_id is None:
        return False
    return bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
