"""The optimizer: which parameters decay, and at which rate each learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from llmkit import recipe as recipes
from llmkit.training.learner import Learner


def adamw(learner: Learner, training: recipes.Training, vectors: Sequence[str] = ()) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); matrices decay, biases and norms don't; new heads have a rate of their own."""
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in learner.trained.items():
        matrix = parameter.dim() >= 2 and not any(part in name for part in vectors)
        groups.setdefault((learner.is_new(name), matrix, learner.rates.get(name, 1.0)), []).append(parameter)
    rates = {False: training.learning_rate or 0.0, True: training.head_learning_rate or 0.0}
    return torch.optim.AdamW(
        [{"params": parameters, "initial_lr": rates[new] * factor,
          "weight_decay": training.weight_decay if matrix else 0.0}
         for (new, matrix, factor), parameters in groups.items()], lr=training.learning_rate or 0.0,
        betas=(training.adam_beta1, training.adam_beta2), eps=training.adam_epsilon, fused=True)
