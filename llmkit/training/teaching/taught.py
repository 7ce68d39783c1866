"""What is learned, with a teacher beside the labels: the same rows and targets, and more heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.data.batches import Batch, Examples, Features
from llmkit.objectives.base import Judged, Setup, Sums
from llmkit.recipe import Teacher
from llmkit.recipe.seams import Learning

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

KEPT = "taught"
"""The field of a row that holds what the teacher said of it."""
HIDDEN, ALIKE = "hidden_loss", "agreement"
"""Heads of a run with a teacher: hidden states, and how often both say the same, from which nothing is learned."""


@dataclass(frozen=True)
class Taught:
    """An objective or a task whose targets are also asked of a teacher; all that isn't here is the objective's own.

        loss = (1 - alpha) · hard_loss + alpha · soft_loss + hidden.weight · hidden_loss

    Each is a mean over its own targets (Hinton et al. 2015, §2; Sanh et al. 2019, §2).
    """

    objective: Learning
    plan: Teacher
    numbers: bool = False
    """Whether its answers are numbers, of which no two are the same."""
    stacks: int = 1
    """Stacks of layers that are looked into: 2 of an encoder-decoder."""

    def __getattr__(self, name: str) -> Any:
        if name == "objective":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.objective, name)

    @property
    def weights(self) -> dict[str, float]:
        """What each head counts for."""
        own, alpha = self.objective.weights, self.plan.alpha
        hidden = {} if self.plan.hidden is None else {HIDDEN: self.plan.hidden.weight}
        return {**{hard(head): (1 - alpha) * weight for head, weight in own.items()},
                **{soft(head): alpha * weight for head, weight in own.items()}, **hidden,
                **({} if self.numbers else {alike(head): 0.0 for head in own})}

    @property
    def heads(self) -> tuple[str, ...]:
        """Those of which less is better."""
        return tuple(head for head in self.weights if not head.startswith(ALIKE))

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """The objective's batch, and what is kept of the teacher's answers: one below the other, as wide as the widest.

        (targets, …, choices); what a row has fewer of is -inf.
        """
        import torch

        if KEPT not in rows[0]:
            return self.objective.collate(rows, tokenizer)
        batch = self.objective.collate([{name: part for name, part in row.items() if name != KEPT} for row in rows],
                                       tokenizer)
        kept = [row[KEPT] for row in rows]
        widest = max(part.shape[-1] for part in kept)
        whole = np.full((sum(map(len, kept)), *kept[0].shape[1:-1], widest), -np.inf, np.float32)
        first = 0
        for part in kept:
            whole[first : first + len(part), ..., : part.shape[-1]] = part
            first += len(part)
        return {**batch, KEPT: torch.from_numpy(whole)}

    def targets(self, batch: Batch) -> Sums:
        """The objective's, for the labels and for the teacher; of hidden states, the positions that aren't padding."""
        batch = without_kept(batch)
        own = self.objective.targets(batch)
        hidden = {} if self.plan.hidden is None else {HIDDEN: sum_of(places(batch, self.stacks))}
        return {**{hard(head): own[head] for head in own}, **{soft(head): own[head] for head in own}, **hidden,
                **({} if self.numbers else {alike(head): own[head] for head in own})}

    def compare(self, representations: Tensor) -> Sums:
        """Where a step's rows are compared: the objective's loss, and how far each row's number is from the teacher's.

        Behind each representation stands what the teacher says of its row (`Pupil`): the squared error is summed.
        """
        ours, told = representations[..., :-1], representations[..., -1].flatten(1)[:, 0].detach()
        far = (self.objective.grade(ours) - told).square().sum()
        return {**{hard(head): value for head, value in self.objective.compare(ours).items()}, soft("loss"): far}

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """The student's own figures, as if it had no teacher; beside them how far it is from the teacher.

        `taught_loss` is what is minimised.
        """
        own = self.objective.weights
        alone = {head: means[hard(head)] for head in own}
        alone["loss"] = sum(weight * means[hard(head)] for head, weight in own.items())
        beside = {head: means[head] for head in self.weights if head not in {hard(one) for one in own}}
        found = self.objective.figures(alone, judged, sets, setup)
        whole = means["loss"] + ((1 - self.plan.alpha) * found["loss"] if self.objective.whole else 0.0)
        return {**found, **beside, "taught_loss": whole}


def hard(head: str) -> str:
    """What the loss of a head against the labels is called: `loss` is that of all heads."""
    return "hard_loss" if head == "loss" else head


def soft(head: str) -> str:
    """What its loss against the teacher's answers is called."""
    return f"soft_{head}"


def alike(head: str) -> str:
    """What the share of targets is called of which both say the same."""
    return ALIKE if head == "loss" else f"{ALIKE}_{head}"


def without_kept(batch: Batch) -> Batch:
    """A batch as the objective made it."""
    return {name: part for name, part in batch.items() if name != KEPT}


def places(batch: Batch, stacks: int = 1) -> list[Tensor]:
    """Which positions hold a token, (rows, length), of each stack of layers: a decoder's are those of its labels."""
    import torch

    if "documents" in batch:
        read = batch["documents"] >= 0
    elif "attention_mask" in batch:
        read = batch["attention_mask"] > 0
    else:
        read = torch.ones_like(batch["input_ids"], dtype=torch.bool)
    return [read, batch["labels"] != -100][:stacks]


def sum_of(masks: Sequence[Tensor]) -> Tensor:
    """How many positions these are."""
    import torch

    return torch.stack([mask.sum() for mask in masks]).sum()
