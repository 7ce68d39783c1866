"""Instruction tuning: a prompt is given, the answer is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch
from llmkit.data.sources import Place, Reader
from llmkit.errors import DataError
from llmkit.objectives.base import Judged, Objective, Setup, Sums
from llmkit.recipe import Positive
from llmkit.registry import OPTIONS
from llmkit.tasks._writing import Writing
from llmkit.tasks.base import Prediction, Row

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from llmkit.data.batches import Examples


@dataclass(config=OPTIONS)
class Instruction(Writing):
    """Answer a prompt; the loss is on the answer only, and the tokenizer's chat template is used where it has one."""

    template: str = "{prompt}\n"
    """How a prompt is written for a tokenizer without a chat template; the answer follows it."""
    max_new_tokens: Positive = 128
    """Tokens that a predicted answer may have."""
    num_beams: Positive = 1
    """Answers that beam search follows at once; 1: the likeliest token each time."""

    wanted = {
        "prompt": ("instruction", "question", "query", "input", "text", "document", "source"),
        "response": ("output", "answer", "completion", "summary", "target", "chosen"),
    }
    answers = ("response",)
    optional = {"context": ("input",)}

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template must contain {prompt}")

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """Alpaca's `input` belongs to its `instruction`; alone, it is the prompt."""
        columns = super().columns(row, reader, answered)
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

    def ask(self, row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
        """The prompt in the tokenizer's chat template, or in the recipe's."""
        if tokenizer.chat_template is None:
            return self.template.replace("{prompt}", row["prompt"])
        turns = [{"role": "user", "content": row["prompt"]}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def answer(self, row: Row) -> str:
        """The response, without space around it."""
        return str(row["response"]).strip()

    # ---- evaluation: by likelihood; writing every answer would take longer than training ----

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss."""
        return self.loss(model, batch, family), []

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """There are no predictions."""
        return self.metrics(means, [])

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """The perplexity of the answers."""
        return Objective.metrics(self, means, pairs)
