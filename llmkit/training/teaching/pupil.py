"""A learner with a teacher: its forward asks both about one batch, and gives the losses against labels and teacher."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmkit.backbones.base import Family
from llmkit.backbones.kernels import soft_loss
from llmkit.backbones.kernels.chunked_loss import Guesses, Logits
from llmkit.data.batches import Batch
from llmkit.objectives.base import Response, Responses, Sums
from llmkit.recipe.seams import Learning
from llmkit.training.learner import Learner, Said, Way
from llmkit.training.teaching.hidden import Stacks, hidden_loss, seen
from llmkit.training.teaching.taught import HIDDEN, KEPT, Taught, alike, hard, places, soft, without_kept


@dataclass(frozen=True)
class Tutor:
    """A teacher, open: frozen, without dropout, on the run's device."""

    model: nn.Module
    family: type[Family]
    order: Tensor | None = None
    """Where its labels stand in another order than the student's: which of its answers each of the student's is."""
    stacks: Stacks | None = None
    """Its layers, where they are looked into."""
    width: int = 0
    """Of its hidden states."""

    @torch.no_grad()
    def answers(self, objective: Learning, batch: Batch) -> Responses:
        """What it says of a batch, with its labels in the student's order."""
        found = objective.respond(self.model, batch, self.family)
        return {head: self.ordered(answer) for head, answer in found.items()}

    @torch.no_grad()
    def grades(self, objective: Learning, batch: Batch) -> Tensor:
        """The number that it says of each row, (rows,)."""
        return objective.grade(objective.represent(self.model, batch, self.family))

    def ordered(self, answer: Response) -> Response:
        """An answer with the labels in the student's order."""
        if self.order is None:
            return answer
        if isinstance(answer.said, Guesses):
            whole = answer.said.at(slice(0, len(answer.said.labels)))
            return Response(Logits(whole[:, self.order], answer.said.labels), answer.kind, answer.weights)
        return Response(answer.logits[..., self.order], answer.kind, answer.weights)


class Pupil(Learner):
    """A model, what it learns, and a teacher beside it.

    The teacher is no part of the module: it is neither trained nor saved, counted or sent to other processes.
    """

    def __init__(
        self, model: nn.Module, objective: Taught, family: type[Family], new: tuple[str, ...], tutor: Tutor,
        stacks: Stacks | None = None, projection: nn.Module | None = None,
    ) -> None:
        super().__init__(model, cast("Learning", objective), family, new)
        self.lesson, self.projection = Lesson(objective, tutor, stacks), projection

    def forward(self, batch: Batch, way: Way = "loss") -> Said:  # type: ignore[override]
        """As of any learner; losses are against labels and teacher."""
        if self.lesson.objective.objective.whole and way in ("judge", "represent"):
            return self.beside_each_other(without_kept(batch), way == "judge")
        if way not in ("loss", "judge"):
            return super().forward(without_kept(batch), way)
        plain, objective, outcomes = without_kept(batch), self.lesson.objective.objective, None
        with self.hearing(plain), seen(self.lesson.stacks) if self.lesson.stacks is not None else (
                nullcontext()) as states:
            said = objective.respond(self.model, plain, self.family)
        own = objective.scored(said, plain, self.training)
        if way == "judge":
            own, outcomes = objective.judge(self.model, plain, self.family)
        sums = {hard(head): value for head, value in own.items()} | self.lesson.taught(
            batch, said, states, self.projection)
        return sums if outcomes is None else (sums, outcomes)


    def beside_each_other(self, batch: Batch, judged: bool) -> Said:
        """Where a step's rows are compared: representations (rows, …, width), and the teacher's number behind each."""
        objective = self.lesson.objective.objective
        ours, told = objective.represent(self.model, batch, self.family), self.lesson.tutor.grades(objective, batch)
        if not judged:
            return torch.cat([ours, told.view(-1, *[1] * (ours.dim() - 1)).expand(*ours.shape[:-1], 1)], -1)
        own, outcomes = objective.judge(self.model, batch, self.family)
        far = (objective.grade(ours) - told).square().sum()
        return {**{hard(head): value for head, value in own.items()}, soft("loss"): far}, outcomes


@dataclass(frozen=True)
class Lesson:
    """What a teacher makes of its student's answers."""

    objective: Taught
    tutor: Tutor
    stacks: Stacks | None
    """The student's layers, where they are looked into."""

    def taught(
        self, batch: Batch, said: Responses, states: list[list[Tensor]] | None, projection: nn.Module | None,
    ) -> Sums:
        """The losses against the teacher: of each head's answers, and of hidden states."""
        plain, plan, sums = without_kept(batch), self.objective.plan, dict[str, Tensor]()
        theirs: list[list[Tensor]] | None = None
        if KEPT in batch:
            told = {"loss": as_said(batch[KEPT], said["loss"])}
        else:
            with seen(self.tutor.stacks) if self.tutor.stacks is not None else nullcontext() as theirs:
                told = self.tutor.answers(self.objective.objective, plain)
        for head, answer in said.items():
            sums[soft(head)], same = compared(answer, told[head], plan.temperature)
            if not self.objective.numbers:
                sums[alike(head)] = same.detach()
        if plan.hidden is not None:
            assert states is not None
            assert theirs is not None
            sums[HIDDEN] = hidden_loss(plan.hidden, states, theirs, places(plain, self.objective.stacks), projection)
        return sums


def compared(said: Response, told: Response, temperature: float) -> tuple[Tensor, Tensor]:
    """(how far a student's answers are from its teacher's, summed; what the targets count for where both are one)."""
    if isinstance(said.said, Guesses):
        return soft_loss.of_words(said.said, told.guesses, temperature)
    if said.kind == "number":
        return soft_loss.of_numbers(said.logits, told.logits, said.weights)
    way = soft_loss.of_choices if said.kind == "one" else soft_loss.of_labels
    return way(said.logits, told.logits, temperature, said.weights)


def as_said(kept: Tensor, said: Response) -> Response:
    """Kept answers in the form of the student's: as many choices as the longest row of this batch has."""
    if isinstance(said.said, Guesses):
        return Response(Logits(kept, said.said.labels), said.kind, said.weights)
    wide, have = said.logits.shape[-1], kept.shape[-1]
    if have < wide:
        kept = torch.cat([kept, kept.new_full((*kept.shape[:-1], wide - have), -torch.inf)], -1)
    return Response(kept[..., :wide], said.kind, said.weights)


def rows_of(answer: Response, batch: Batch) -> list[Any]:
    """A batch's answers as arrays, one a row: (targets, …, choices)."""
    if not isinstance(answer.said, Guesses):
        return [row[None].float().cpu().numpy() for row in answer.logits]
    whole = answer.said.at(slice(0, len(answer.said.labels))).float().cpu()
    counts = (batch["labels"] != -100).sum(1).tolist()
    return [part.numpy() for part in torch.split(whole, counts)]
