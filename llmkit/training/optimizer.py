"""What the optimizer moves: which parameters decay, at which rate each learns, and which are matrices of layers."""

from __future__ import annotations

from torch import nn

from llmkit import recipe as recipes
from llmkit.optimizers.base import Learned
from llmkit.recipe.seams import Method
from llmkit.training.learner import Learner


def learned(learner: Learner, training: recipes.Training, tuning: Method) -> list[Learned]:
    """What trains; matrices decay, biases and norms don't; new heads have a rate of their own."""
    rates = {False: training.learning_rate or 0.0, True: training.head_learning_rate or 0.0}
    outer = edges(learner)
    out = []
    for name, parameter in learner.trained.items():
        matrix = parameter.dim() >= 2 and not any(part in name for part in tuning.undecayed)
        new, factor = learner.is_new(name), learner.rates.get(name, 1.0)
        out.append(Learned(
            name, parameter, rates[new] * factor, training.weight_decay if matrix else 0.0,
            matrix and parameter.dim() == 2 and not new and id(parameter) not in outer, (new, matrix, factor)))
    return out


def edges(learner: Learner) -> set[int]:
    """The ids of parameters at both ends of a model: tables of embeddings, and heads."""
    heads = {*learner.family.heads.values(), *learner.family.poolers}
    return {id(parameter) for name, part in learner.named_modules()
            if isinstance(part, nn.Embedding) or any(f".{name}".endswith(f".{head}") for head in heads)
            for parameter in part.parameters()}
