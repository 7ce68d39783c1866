"""How far what a student says is from what its teacher says, both softened by a temperature (Hinton et al. 2015, §2).

    KL(softmax(teacher / T) || softmax(student / T)) · T²

Its gradients shrink by 1/T² as the temperature rises; the factor keeps them beside those of the labels' loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import log_softmax, logsigmoid
from torch.utils.checkpoint import checkpoint

from llmkit.backbones.kernels.chunked_loss import Guesses, at_once

if TYPE_CHECKING:
    from torch import Tensor

LEAST = -1e30
"""What stands for -inf, the logit of a choice that isn't there: 0 · LEAST is 0, and 0 · inf is no number."""


def of_words(student: Guesses, teacher: Guesses, temperature: float) -> tuple[Tensor, Tensor]:
    """(the loss, summed over the targets; how many of them both find the same word for).

    Logits that stand for no token, behind the shorter vocabulary, have no part in it. Where there are many, they exist
    by chunks of targets, and are made again for the gradient.
    """
    words, count = min(student.words, teacher.words), len(student.labels)
    step = max(1, at_once(student.labels.device)[0] // words)
    losses, alike = [], []

    def chunk(rows: slice) -> Tensor:
        with torch.no_grad():
            told = teacher.at(rows)[:, :words]
        said = student.at(rows)[:, :words]
        alike.append((said.argmax(-1) == told.argmax(-1)).sum())
        return divergence(said, told, temperature).sum()

    for start in range(0, count, step):
        rows = slice(start, start + step)
        if count > step and torch.is_grad_enabled():
            losses.append(checkpoint(chunk, rows, use_reentrant=False, preserve_rng_state=False))
        else:
            losses.append(chunk(rows))
    none = torch.zeros((), device=student.labels.device)
    return (torch.stack(losses).sum(), torch.stack(alike).sum()) if losses else (student.loss() * 0.0, none)


def of_choices(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """(the loss, what the targets count for whose likeliest choice is the same): logits (targets, …, choices)."""
    losses = divergence(student.clamp(min=LEAST), teacher.clamp(min=LEAST), temperature)
    alike = (student.argmax(-1) == teacher.argmax(-1)).float()
    return (losses * weights).sum(), (alike * weights).sum()


def of_labels(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Where any of the labels may be right: as above, of each label's two chances; logits (rows, labels)."""
    said, told = student / temperature, teacher / temperature
    chance = told.sigmoid()
    losses = chance * (logsigmoid(told) - logsigmoid(said)) + (1 - chance) * (logsigmoid(-told) - logsigmoid(-said))
    alike = ((student > 0) == (teacher > 0)).float()
    return (losses * temperature**2 * weights).sum(), (alike * weights).sum()


def of_numbers(student: Tensor, teacher: Tensor, weights: Tensor | float) -> tuple[Tensor, Tensor]:
    """(the squared error, summed; nothing): numbers have no temperature, and are never quite the same."""
    return ((student - teacher).square() * weights).sum(), torch.zeros((), device=student.device)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of softened logits (…, choices), times T²: (…)."""
    said, told = (log_softmax(logits.float() / temperature, -1) for logits in (student, teacher))
    return (told.exp() * (told - said)).sum(-1) * temperature**2
