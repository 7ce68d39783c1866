"""The losses of preferences, of log-probabilities alone: DPO, IPO, KTO, ORPO."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def dpo(ahead: Tensor, beta: float, wrong: float) -> Tensor:
    """By how much the chosen answer is ahead, (rows,), to a loss each; a share of the pairs is labelled wrongly.

    Rafailov et al. 2023, eq. 7; with `wrong`, Mitchell 2023, "A note on DPO with noisy preferences", eq. 3.
    """
    from torch.nn.functional import logsigmoid

    return -((1 - wrong) * logsigmoid(beta * ahead) + wrong * logsigmoid(-beta * ahead))


def ipo(ahead: Tensor, beta: float) -> Tensor:
    """Azar et al. 2024, eq. 17."""
    return (ahead - 1 / (2 * beta)) ** 2


def kto(ratios: Tensor, others: Tensor, liked: Tensor, beta: float, weights: tuple[float, float]) -> Tensor:
    """Ethayarajh et al. 2024, eq. 8: an answer's value over that of what the model says anyway, (rows,) each.

    ratios    log pi(y|x) / pi_ref(y|x) of the answers
    others    the same of answers to other prompts, whose mean (0 at least) is the reference point z0; not learned from
    liked     1 where an answer is wanted, 0 where it isn't
    weights   lambda of the wanted ones and of the others

        lambda (1 - sigmoid(beta (r - z0)))   or, unwanted,   lambda (1 - sigmoid(beta (z0 - r)))
    """
    import torch

    ahead = ratios - others.detach().mean().clamp_min(0)
    side = torch.where(liked > 0, ahead, -ahead)
    wanted, unwanted = weights
    return torch.where(liked > 0, wanted, unwanted) * (1 - (beta * side).sigmoid())


def orpo(likely: Tensor, beta: float) -> Tensor:
    """Mean log-probabilities a token, (2, rows), to a loss each (Hong et al. 2024, eq. 6 and 7).

    The chosen answer's own loss, and beta (the paper's lambda) of how far its odds P / (1 - P) are from being ahead.
    """
    import torch
    from torch.nn.functional import logsigmoid

    sure = likely.clamp_max(-torch.finfo(likely.dtype).eps)  # an answer that is certain has no odds
    odds = likely - torch.log(-torch.expm1(sure))
    return -likely[0] - beta * logsigmoid(odds[0] - odds[1])
