"""Preference tuning: of two answers to one prompt, the chosen one becomes likelier than the rejected one (DPO)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Examples, Features, stack
from llmkit.data.fields import find_fields, no_text
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.data.swapping.pairs import Swaps
from llmkit.models import ends
from llmkit.objectives.base import Judged, Setup, Sums
from llmkit.objectives.shared.places import rows_of_targets
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError
from llmkit.tasks.base import Prediction, Row, Task, say
from llmkit.tasks.instruction import TEMPLATE, Instruction
from llmkit.tasks.shared import preference_losses as losses
from llmkit.tasks.shared.conversation import BESIDE, SYSTEM, TALK, are_messages, swapped_talk, unwritten
from llmkit.tasks.shared.forms import pairwise
from llmkit.tasks.shared.preferred import BOTH, is_two, read, whole

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

LABELLED = {"response": ("completion", "output", "answer"), "label": ("kto_tag", "desirable")}
"""A row of one answer, and whether it is a good one."""


@dataclass(config=OPTIONS)
class Preference(Task):
    """Direct preference optimisation (Rafailov et al. 2023): no reward model and no samples; the untuned model anchors.

    Rows are {prompt, chosen, rejected}, Alpaca's instruction and input in the place of a prompt, or a conversation
    (messages, or ShareGPT's conversations) with the two answers to its end; also TRL's messages on all three sides,
    HH-RLHF's texts, OpenAI's preferred_output, ms-swift's rejected_response. kto also takes rows of one answer,
    {prompt, completion, label}. The log-probabilities under the untuned model are computed once, before the first step.
    """

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How dear it is to move away from the untuned model; of orpo, what the odds count for beside the answer's loss."""
    loss_type: Literal["sigmoid", "ipo", "kto", "orpo"] = "sigmoid"
    """DPO's logistic loss; IPO's squared one of log-probabilities a token (Azar et al. 2024); KTO, where each answer is
    good or bad by itself (Ethayarajh et al. 2024); ORPO, which needs no untuned model (Hong et al. 2024)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The share of pairs that are labelled the wrong way round (conservative DPO)."""
    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """Of kto: what a good answer counts for."""
    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """Of kto: what a bad answer counts for; more where there are fewer of them."""
    template: str = TEMPLATE
    """How a prompt is written; the answer follows it. Where nothing is said here, a tokenizer's chat template is used,
    if it has one."""

    shapes = frozenset({"decoder", "encoder-decoder"})
    head = "AutoModelForCausalLM"
    goes_on = True
    metric = "reward_accuracy"
    varies = True
    unswapped = "tools are called in them"
    wanted = {
        "prompt": ("instruction", "question", "query", "input", "text"),
        "chosen": ("preferred", "response_chosen", "better", "chosen_response", "preferred_output", "accepted",
                   "accept", "response_j", "pos_resp", "positive", "win", "y_w"),
        "rejected": ("dispreferred", "response_rejected", "worse", "rejected_response", "non_preferred_output",
                     "rejected_messages", "reject", "response_k", "neg_resp", "negative", "lose", "y_l"),
    }
    optional = {"context": ("input",), **SYSTEM, **BESIDE}
    example = (
        {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "No."},
        {"prompt": "Which animal says moo?", "chosen": "A cow does.", "rejected": "Animals say things."},
    )

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template must contain {prompt}")
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise ValueError("label_smoothing is of the sigmoid loss")
        if self.loss_type != "kto" and (self.desirable_weight, self.undesirable_weight) != (1, 1):
            raise ValueError("desirable_weight and undesirable_weight are of the kto loss")

    @property
    def reference(self) -> bool:
        """Whether the untuned model is asked: not for orpo."""
        return self.loss_type != "orpo"

    @property
    def whole(self) -> bool:
        """Whether a row's loss depends on all of its step: kto's reference point is a mean of them."""
        return self.loss_type == "kto"

    @property
    def talk(self) -> Instruction:
        """How a conversation becomes tokens."""
        return Instruction(template=self.template)

    def head_for(self, family: type[Family]) -> str:
        """The language model's."""
        return self.talk.head_for(family)

    # ---- rows ----

    def unfolded(self, reader: Reader, answered: bool) -> Rows:
        """Where a row has several answers and says which is better, that one is chosen; ties are left out."""
        named = [{both, *self.wanted[both]} for both in BOTH]
        left, known = Counter[str](), dict[tuple[str, ...], pairwise.Judged | None]()
        for row, place in reader.rows():
            there = row.keys() | reader.source.fields.keys()
            if all(names & there for names in named) or is_two(row.get("output")):
                yield row, place
                continue
            found: Row | None = row
            try:
                if (names := tuple(row)) not in known:
                    known[names] = pairwise.judged(names)
                if (judged := known[names]) is not None:
                    found = judged.row(row, place)
                    say(reader, f"{reader.name}: {judged.note()}")
                elif (best := pairwise.ranked(row, place)) is not None:
                    found = best[0]
                    say(reader, f"{reader.name}: the best and the worst answer of each row are compared, by "
                                f"{best[1]!r}")
                elif "label" not in row and (why := pairwise.undecided(names)):
                    raise DataError(f"{reader.name}: {why}")
            except DataError as error:
                reader.spare(error)
                continue
            if found is None:
                left["where no answer is better"] += 1
            elif found is not row and pairwise.part_early(found):
                left["whose conversations part before the last answer"] += 1
            else:
                yield found, place
        for what, count in left.items():
            say(reader, f"{reader.name}: {count:,} rows {what} are left out")

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """A column of conversations or a prompt, and two answers; answers that are conversations need no other."""
        answers = {name: self.wanted[name] for name in BOTH}
        beside = {**TALK, **SYSTEM, **BESIDE}
        columns = find_fields(list(row), {}, {**answers, **beside, "both": ("output",)}, reader)
        if not is_two(row.get(columns.get("both", ""))):
            columns.pop("both", None)
        talk = "messages" in columns and isinstance(unwritten(row[columns["messages"]]), list)
        asked = {"prompt": self.wanted["prompt"], "context": ("input",)}
        if not any(name in columns for name in BOTH) and "both" not in columns:
            labelled = find_fields(list(row), {}, {**beside, **asked, **LABELLED}, reader)
            if "label" in labelled and ("response" in labelled or talk):
                self.refuse_labels(reader)
                return without_twice(labelled)
        more = find_fields([name for name in row if name not in columns.values()], {}, {} if talk else asked, reader)
        full = all(name in columns for name in BOTH) and (
            whole({name: row[columns[name]] for name in BOTH})
            or ("prompt" not in more and all(are_messages(row[columns[name]]) for name in BOTH)))
        if full or (talk and "rejected" in columns) or "both" in columns:
            return columns | more
        return without_twice(super().columns(row, reader, answered))

    def refuse_labels(self, reader: Reader) -> None:
        """DataError where rows of one answer are to be compared in pairs."""
        if self.loss_type != "kto":
            raise DataError(f"{reader.name}: its rows have one answer each and a label; {self.loss_type} compares two, "
                            "chosen and rejected. task.loss_type: kto learns from one.")

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """{"messages": what was said before, "chosen": text, "rejected": text}."""
        row = super().check(row, columns, place)
        if not isinstance(row.get("system"), str | None):
            raise no_text("system", columns["system"], row["system"], place)
        return read(row, columns, place)

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """Rows; what is odd in them is told among the reader's notes."""
        odd = Counter[str]()
        for row, place in super().stream(reader, answered):
            odd.update(row.pop("odd", ()))
            yield row, place
        for what, count in odd.items():
            say(reader, f"{reader.name}: {count:,} rows {what}")

    def swapped(self, row: Row, swaps: Swaps) -> Row | None:
        """What is said before the answers, and both of these; None where tools are called."""
        both = [name for name in BOTH if name in row]
        said = [{"role": "assistant", "content": row[name]} if isinstance(row[name], str) else row[name]
                for name in both]
        talk = swapped_talk([*row["messages"], *said], swaps)
        if talk is None:
            return None
        answers = {name: new["content"] if isinstance(row[name], str) else new
                   for name, new in zip(both, talk[len(row["messages"]):], strict=True)}
        return {**row, "messages": talk[: len(row["messages"])], **answers}

    def texts(self, reader: Reader) -> Iterator[str]:
        """What is said."""
        for row, _ in self.read(reader):
            yield from (message["content"] for message in row["messages"])
            yield from (text_of(row[name]) for name in BOTH if name in row)

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Both answers after the same prompt: the chosen one's fields by their names, the other's after `rejected_`.

        Of kto, each answer by itself, and after its prompt, in the other's place, what is said to another row's.
        """
        if self.loss_type == "kto":
            return self.apart(rows, setup, cut)
        chosen, rejected = (
            self.answered([(row, row[name], place) for row, place in rows], setup, cut) for name in BOTH)
        return [side_by_side(one, other) for one, other in zip(chosen, rejected, strict=True)]

    def apart(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Each answer of each row, `liked` or not, beside an answer to the next row's prompt."""
        said = [(i, name) for i, (row, _) in enumerate(rows) for name in BOTH if name in row]
        others = []
        for i, name in said:
            other = rows[(i + 1) % len(rows)][0]
            others.append(other[name] if name in other else next(other[one] for one in BOTH if one in other))
        own = self.answered([(rows[i][0], rows[i][0][name], rows[i][1]) for i, name in said], setup, cut)
        mixed = self.answered([(rows[i][0], one, rows[i][1]) for (i, _), one in zip(said, others, strict=True)], setup,
                              [])
        return [{**side_by_side(one, other), "liked": np.array([name == "chosen"], np.float32), "of": np.array([i])}
                for one, other, (i, name) in zip(own, mixed, said, strict=True)]

    def answered(
        self, pairs: Sequence[tuple[Row, Any, Place]], setup: Setup, cut: list[int],
    ) -> list[Features]:
        """Each prompt with an answer to it, whose labels stand there alone."""
        rows = []
        for row, answer, place in pairs:
            message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
            rows.append(({**row, "messages": [*row["messages"], message], "last": True}, place))
        return [last_answer(features) for features in self.talk.encode(rows, setup, cut)]

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """All chosen answers, then all rejected ones: (2 * rows, longest); `reference` (rows, 2), `liked` (rows,)."""
        import torch

        rejected = [{name.removeprefix("rejected_"): value for name, value in row.items()
                     if name.startswith("rejected_")} for row in rows]
        chosen = [{name: row[name] for name in names} for row, names in zip(rows, rejected, strict=True)]
        pad = tokenizer.pad_token_id or 0
        fill = {"input_ids": pad, "decoder_input_ids": pad, "labels": -100, "documents": -1}
        batch = stack([*chosen, *rejected], fill)
        if "reference" in rows[0]:
            batch["reference"] = torch.tensor(np.stack([row["reference"] for row in rows]), dtype=torch.float32)
        if "liked" in rows[0]:
            batch["liked"] = torch.from_numpy(np.concatenate([row["liked"] for row in rows]))
        return batch

    def describe(self, folder: Path, setup: Setup) -> None:
        """What ends an answer ends what the model writes."""
        ends.add(folder, self.ends(setup))

    def ends(self, setup: Setup) -> list[int]:
        """Those of the conversation."""
        return self.talk.ends(setup)

    # ---- loss ----

    @property
    def unteachable(self) -> str:
        """The model as it was before is its teacher already."""
        return ("it learns from two answers beside each other, with the model as it was before as its reference; learn "
                "a teacher's answers by instruction")

    def targets(self, batch: Batch) -> Sums:
        """One comparison a row."""
        import torch

        return {"loss": torch.tensor(len(batch["labels"]) // 2, device=batch["labels"].device)}

    def refer(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[list[float]]:
        """The log-probabilities of both answers under the untuned model."""
        both: list[list[float]] = self.likely(model, batch, family).T.tolist()
        return both

    def likely(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """Log-probabilities of the answers: (2, rows), chosen before rejected; a token's, on average, for ipo, orpo."""
        import torch

        inputs = {name: tensor for name, tensor in batch.items() if name not in ("reference", "liked")}
        labels = batch["labels"]
        each = -self.at_targets(model, inputs, family).each()
        whole = torch.zeros(len(labels), device=each.device).index_add(0, rows_of_targets(labels), each)
        if self.loss_type in ("ipo", "orpo"):
            whole = whole / (labels != -100).sum(1)
        return whole.view(2, -1)

    def ratios(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """How much likelier each answer is than under the untuned model, as a logarithm: (2, rows)."""
        likely = self.likely(model, batch, family)
        return likely - batch["reference"].T if "reference" in batch else likely

    def losses(self, ratios: Tensor) -> Tensor:
        """(2, rows) -> the loss summed over rows; of kto, which has its own `compare`, none."""
        if self.loss_type == "orpo":
            return losses.orpo(ratios, self.beta).sum()
        ahead = ratios[0] - ratios[1]
        if self.loss_type == "ipo":
            return losses.ipo(ahead, self.beta).sum()
        return losses.dpo(ahead, self.beta, self.label_smoothing).sum()

    def represent(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """Of kto: an answer's ratio, that of an answer to another prompt, and whether it is liked: (rows, 3)."""
        import torch

        return torch.cat([self.ratios(model, batch, family).T, batch["liked"][:, None]], 1)

    def compare(self, representations: Tensor) -> Sums:
        """Of kto: the loss of a step's answers, whose reference point they share."""
        ratios, others, liked = representations.unbind(1)
        weights = self.desirable_weight, self.undesirable_weight
        return {"loss": losses.kto(ratios, others, liked, self.beta, weights).sum()}

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """How far the chosen answers are from being preferred."""
        if self.whole:
            return self.compare(self.represent(model, batch, family))
        return {"loss": self.losses(self.ratios(model, batch, family))}

    # ---- figures ----

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss, and both ratios of each row."""
        import torch

        if self.whole:  # they are compared once all are there
            ratios = self.represent(model, batch, family)
            return {"loss": torch.zeros((), device=ratios.device)}, ratios.tolist()
        ratios = self.ratios(model, batch, family)
        return {"loss": self.losses(ratios)}, ratios.T.tolist()

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """Both log-probabilities, in relation to the untuned model's where these are known."""
        return self.ratios(model, batch, family).T.tolist()

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """Figures of all rows; kto's loss is of all of them at once."""
        import torch

        if self.whole:
            numbered = sorted((row, one) for rows, said in judged for row, one in zip(rows, said, strict=True))
            said = torch.tensor([one for _, one in numbered], dtype=torch.float64)
            means = {**means, "loss": float(self.compare(said)["loss"]) / len(said)}
        return super().figures(means, judged, sets, setup)

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """Which answer the model prefers, and the rewards that this stands for; of one answer, its reward."""
        if self.whole:
            rewards = {f"{name}_reward": self.beta * one[0]
                       for name, one in zip([name for name in BOTH if name in row], outcomes, strict=True)}
        else:
            rewards = {f"{name}_reward": self.beta * one for name, one in zip(BOTH, outcomes[0], strict=True)}
        if len(rewards) < 2:
            return rewards
        ahead = rewards["chosen_reward"] > rewards["rejected_reward"]
        return {"preferred": "chosen" if ahead else "rejected", **rewards}

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """How often the chosen answer has the higher reward, by how much, and both rewards.

        Where rows have one answer each, how often a random good one has the higher reward.
        """
        rewards = {name: np.array([prediction[f"{name}_reward"] for prediction, _ in pairs
                                   if f"{name}_reward" in prediction])
                   for name in BOTH}
        known = {f"{name}_reward": float(some.mean()) for name, some in rewards.items() if len(some)}
        if len(known) < 2:
            return {**means, **known}
        if all("preferred" in prediction for prediction, _ in pairs):
            right = float(np.mean([prediction["preferred"] == "chosen" for prediction, _ in pairs]))
        else:
            below = np.searchsorted(np.sort(rewards["rejected"]), rewards["chosen"])
            right = float(below.mean() / len(rewards["rejected"]))
        return {**means, "reward_accuracy": right,
                "reward_margin": known["chosen_reward"] - known["rejected_reward"], **known}


def text_of(answer: Any) -> str:
    """The text of an answer."""
    return str(answer if isinstance(answer, str) else answer["content"])


def side_by_side(one: Features, other: Features) -> Features:
    """Two rows of features as one, the second one's names after `rejected_`."""
    return {**one, **{f"rejected_{name}": value for name, value in other.items()}}


def without_twice(columns: dict[str, str | int]) -> dict[str, str | int]:
    """Fields and their columns, without a context that is the prompt itself."""
    if columns.get("context") is not None and columns.get("context") == columns.get("prompt"):
        del columns["context"]
    return columns


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
