"""Preference tuning: of two answers to one prompt, the chosen one becomes likelier than the rejected one (DPO)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.fields import find_fields
from llmkit.data.sources import Place, Reader
from llmkit.models import ends
from llmkit.objectives.base import Setup, Sums
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError
from llmkit.tasks.base import Prediction, Row, Task
from llmkit.tasks.instruction import Instruction
from llmkit.tasks.shared.conversation import SYSTEM, TALK, conversation, exchange

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

BOTH = ("chosen", "rejected")


@dataclass(config=OPTIONS)
class Preference(Task):
    """Direct preference optimisation (Rafailov et al. 2023): no reward model and no samples; the untuned model anchors.

    Rows are {prompt, chosen, rejected}, Alpaca's instruction and input in the place of a prompt, or a conversation
    (messages, or ShareGPT's conversations) with the two answers to its end. The log-probabilities under the untuned
    model are computed once, before the first step.
    """

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How dear it is to move away from the untuned model."""
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """DPO's logistic loss, or IPO's squared one of log-probabilities a token (Azar et al. 2024)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The share of pairs that are labelled the wrong way round (conservative DPO)."""
    template: str = "{prompt}\n"
    """How a prompt is written for a tokenizer without a chat template; the answer follows it."""

    shapes = frozenset({"decoder", "encoder-decoder"})
    head = "AutoModelForCausalLM"
    goes_on = True
    metric = "reward_accuracy"
    reference = True
    wanted = {
        "prompt": ("instruction", "question", "query", "input", "text"),
        "chosen": ("preferred", "response_chosen", "better"),
        "rejected": ("dispreferred", "response_rejected", "worse"),
    }
    optional = {"context": ("input",), **SYSTEM}
    example = (
        {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "No."},
        {"prompt": "Which animal says moo?", "chosen": "A cow does.", "rejected": "Animals say things."},
    )

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template must contain {prompt}")
        if self.label_smoothing and self.loss_type == "ipo":
            raise ValueError("label_smoothing is of the sigmoid loss")

    @property
    def talk(self) -> Instruction:
        """How a conversation becomes tokens."""
        return Instruction(template=self.template)

    def head_for(self, family: type[Family]) -> str:
        """The language model's."""
        return self.talk.head_for(family)

    # ---- rows ----

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """A column of conversations or a prompt, and two answers; answers that are conversations need no other."""
        answers = {name: self.wanted[name] for name in BOTH}
        found = find_fields(list(row), answers, {**TALK, **SYSTEM}, reader)
        whole = all(isinstance(row[found[name]], list) for name in BOTH)
        if whole or ("messages" in found and isinstance(row[found["messages"]], list)):
            return found
        columns = super().columns(row, reader, answered)
        if columns.get("context") == columns["prompt"]:
            del columns["context"]
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """{"messages": what was said before, "chosen": an answer, "rejected": another}."""
        row = super().check(row, columns, place)
        said = {name: answer(row[name], str(columns[name]), place) for name in BOTH}
        if "messages" in row:
            before = conversation(row["messages"], str(columns["messages"]), place)
        elif "prompt" in row:
            for name in ("prompt", "context"):
                if row.get(name) is not None and not isinstance(row[name], str):
                    raise DataError(f"{place}: the field {columns[name]!r} is no text: {row[name]!r}.")
            before = exchange({**row, "response": None})
        else:
            before = said["chosen"][0]
            if before != said["rejected"][0] or not before:
                raise DataError(f"{place}: {columns['chosen']!r} and {columns['rejected']!r} must be the same "
                                "conversation up to their last message.")
        if row.get("system"):
            before = [{"role": "system", "content": row["system"]}, *before]
        if before[-1]["role"] == "assistant":
            raise DataError(f"{place}: the last message before the two answers is the assistant's own.")
        return {"messages": before, "chosen": said["chosen"][1], "rejected": said["rejected"][1]}

    def texts(self, reader: Reader) -> Iterator[str]:
        """What is said."""
        for row, _ in self.read(reader):
            yield from (message["content"] for message in row["messages"])
            yield from (row[name] for name in BOTH)

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Both answers after the same prompt: the chosen one's fields by their names, the other's after `rejected_`."""
        chosen, rejected = (
            [last_answer(features) for features in self.talk.encode(
                [({"messages": [*row["messages"], {"role": "assistant", "content": row[name]}]}, place)
                 for row, place in rows], setup, cut)] for name in BOTH)
        return [{**one, **{f"rejected_{name}": value for name, value in other.items()}}
                for one, other in zip(chosen, rejected, strict=True)]

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """All chosen answers, then all rejected ones: (2 * rows, longest); `reference` (rows, 2)."""
        import torch

        other = [{name.removeprefix("rejected_"): value for name, value in row.items() if name.startswith("rejected_")}
                 for row in rows]
        one = [{name: row[name] for name in some} for row, some in zip(rows, other, strict=True)]
        pad = tokenizer.pad_token_id or 0
        batch = stack([*one, *other], {"input_ids": pad, "decoder_input_ids": pad, "labels": -100, "documents": -1})
        if "reference" in rows[0]:
            batch["reference"] = torch.tensor(np.stack([row["reference"] for row in rows]), dtype=torch.float32)
        return batch

    def describe(self, folder: Path, setup: Setup) -> None:
        """What ends an answer ends what the model writes."""
        ends.add(folder, self.talk.ends(setup))

    # ---- loss ----

    def targets(self, batch: Batch) -> Sums:
        """One comparison a row."""
        import torch

        return {"loss": torch.tensor(len(batch["labels"]) // 2, device=batch["labels"].device)}

    def refer(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[list[float]]:
        """The log-probabilities of both answers under the untuned model."""
        both: list[list[float]] = self.likely(model, batch, family).T.tolist()
        return both

    def likely(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """Log-probabilities of the answers: (2, rows), chosen before rejected; a token's, on average, for ipo."""
        import torch

        inputs = {name: tensor for name, tensor in batch.items() if name != "reference"}
        wanted = batch["labels"] != -100
        each = -self.at_targets(model, inputs, family).each()
        whole = torch.zeros(len(wanted), device=each.device).index_add(0, wanted.nonzero()[:, 0], each)
        if self.loss_type == "ipo":
            whole = whole / wanted.sum(1)
        return whole.view(2, -1)

    def ratios(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """How much likelier each answer is than under the untuned model, as a logarithm: (2, rows)."""
        likely = self.likely(model, batch, family)
        return likely - batch["reference"].T if "reference" in batch else likely

    def losses(self, ratios: Tensor) -> Tensor:
        """(2, rows) -> the loss summed over rows: eq. 7 of the paper; eq. 17 of Azar et al."""
        from torch.nn.functional import logsigmoid

        ahead = ratios[0] - ratios[1]
        if self.loss_type == "ipo":
            return ((ahead - 1 / (2 * self.beta)) ** 2).sum()
        wrong = self.label_smoothing
        return -((1 - wrong) * logsigmoid(self.beta * ahead) + wrong * logsigmoid(-self.beta * ahead)).sum()

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """How far the chosen answers are from being preferred."""
        return {"loss": self.losses(self.ratios(model, batch, family))}

    # ---- figures ----

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss, and both ratios of each row."""
        ratios = self.ratios(model, batch, family)
        return {"loss": self.losses(ratios)}, ratios.T.tolist()

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """Both log-probabilities, in relation to the untuned model's where these are known."""
        return self.ratios(model, batch, family).T.tolist()

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """Which answer the model prefers, and the rewards that this stands for."""
        ((chosen, rejected),) = outcomes
        return {"preferred": "chosen" if chosen > rejected else "rejected", "chosen_reward": self.beta * chosen,
                "rejected_reward": self.beta * rejected}

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """How often the chosen answer has the higher reward, by how much, and both rewards."""
        chosen, rejected = (float(np.mean([said[f"{name}_reward"] for said, _ in pairs])) for name in BOTH)
        right = float(np.mean([said["preferred"] == "chosen" for said, _ in pairs]))
        return {**means, "reward_accuracy": right, "reward_margin": chosen - rejected, "chosen_reward": chosen,
                "rejected_reward": rejected}


def answer(said: Any, column: str, place: Place) -> tuple[list[dict[str, str]], str]:
    """(what was said before, the answer) of a text, a message, or a conversation that ends with it."""
    if isinstance(said, str):
        return [], said.strip()
    messages = conversation([said] if isinstance(said, dict) else said, column, place)
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{place}: the last message of {column!r} isn't the assistant's.")
    return messages[:-1], messages[-1]["content"]


def last_answer(features: Features) -> Features:
    """Leave the labels of the last answer only: both conversations are the same up to it.

    [q] [a] [q] [a]  ->  labels at the second a
    """
    labels = features["labels"].copy()
    learned = np.flatnonzero(labels != -100)
    gaps = np.flatnonzero(np.diff(learned) > 1)
    if len(gaps):
        labels[: learned[gaps[-1] + 1]] = -100
    return {**features, "labels": labels}
