"""Opening a teacher: with the head for what its student learns, and only if it reads the same tokens and labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llmkit.backbones.base import Family, stacks_of
from llmkit.backbones.kernels.unpadded import unpad
from llmkit.models import kind_of, open_model
from llmkit.models.base import Base
from llmkit.objectives.base import Setup
from llmkit.objectives.shared import text_head
from llmkit.planning.settle import Settled
from llmkit.planning.teaching import unlike_words
from llmkit.recipe import registry
from llmkit.recipe.seams import Learning
from llmkit.system.errors import RequestError
from llmkit.tasks.classification import Classification
from llmkit.training.teaching.hidden import Stacks, matched, projection_of
from llmkit.training.teaching.pupil import Pupil, Tutor
from llmkit.training.teaching.taught import Taught

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("llmkit")


def open_tutor(settled: Settled, base: Base, setup: Setup, device: torch.device, unpads: bool) -> Tutor:
    """The teacher of a run, frozen and in eval mode.

    Its opening draws nothing from torch's random state: the student is the one that it would be without it.
    RequestError where it reads other tokens, has other labels, or has no head for what is learned.
    """
    spec, learning, family = settled.recipe.teacher, settled.recipe.learning, base.family
    assert spec is not None  # the base is its
    head = head_of(learning, base)
    with torch.random.fork_rng(devices=[]):
        opened = open_model(base, head)
    part = family.heads.get(head, " ")
    if spec.alpha > 0 and any(name.startswith((part, f"base_model.model.{part}")) for name in opened.missing):
        raise RequestError(f"teacher.model: {spec.model} has no weights for its {part}, so it would answer "
                           f"{registry.name_of(learning)} at random; teach it first, by a run of the same "
                           f"{'task' if settled.recipe.task else 'objective'}.")
    ours, theirs = setup.tokenizer, opened.tokenizer
    if why := unlike_words(ours.get_vocab(), theirs.get_vocab()):
        raise RequestError(f"teacher.model: {spec.model} reads other tokens than its student: {why}. Give the student "
                           f"the teacher's: tokenizer: {{pretrained: {spec.model}}}.")
    if family.shape == "encoder-decoder" and family.decoder_start(ours) != settled.family.decoder_start(ours):
        raise RequestError(f"teacher.model: the decoder of {spec.model} starts from another token than its student's.")
    model: Any = opened.model
    model.requires_grad_(False).eval().to(device)
    body = model.get_base_model() if base.is_adapter and "get_base_model" in dir(model) else model
    if setup.problem is not None and (model.config.problem_type or "single_label_classification") != setup.problem:
        raise RequestError(f"teacher.model: {spec.model} was taught {model.config.problem_type}, and these rows are "
                           f"{setup.problem}.")
    order = None if setup.labels is None else ordered(spec.model, named(model), setup.labels, device)
    log.info("teacher %s: %s parameters, alpha %g, temperature %g%s", spec.model,
             f"{sum(one.numel() for one in model.parameters()):,}", spec.alpha, spec.temperature,
             "" if spec.hidden is None else f", hidden states by {spec.hidden.loss}")
    if spec.hidden is not None:
        return Tutor(model, family, order, layers_of(body, family), width_of(body))
    if unpads and family.unpads and not base.is_adapter:
        unpad(body, family)
    return Tutor(model, family, order)


def head_of(learning: Learning, base: Base) -> str:
    """The auto class that a teacher is opened with; a label it may read elsewhere in a text than its student does."""
    kind = kind_of(base)
    own = isinstance(learning, Classification) and (kind == text_head.WHOLE or text_head.averages(kind, base.folder))
    return kind if own else learning.head_for(base.family)


def named(model: PreTrainedModel) -> list[str]:
    """The labels of a model, as its config has them."""
    labels: Any = model.config.id2label
    return [labels[number] for number in sorted(labels)]


def ordered(name: str, theirs: Sequence[str], ours: Sequence[str], device: torch.device) -> torch.Tensor | None:
    """Which of a teacher's answers each of the student's labels is; None where they stand in the same order.

    teacher: no, yes; student: yes, no  ->  1, 0. RequestError where one of them has a label more.
    """
    if list(theirs) == list(ours):
        return None
    if sorted(theirs) != sorted(ours):
        lacks, more = ([one for one in some if one not in other] for some, other in ((ours, theirs), (theirs, ours)))
        said = "; ".join(f"{what}: {', '.join(map(repr, some[:5]))}{' …' if len(some) > 5 else ''}" for what, some in (
            ("it lacks", lacks), ("it has beside them", more)) if some)
        raise RequestError(f"teacher.model: {name} has other labels than these rows ({said}). Teach it these first.")
    return torch.tensor([list(theirs).index(label) for label in ours], device=device)


def layers_of(model: PreTrainedModel, family: type[Family]) -> Stacks:
    """The layers of a model."""
    return [[model.get_submodule(name) for name in stack] for stack in stacks_of(model, family)]


def width_of(model: PreTrainedModel) -> int:
    """How wide its hidden states are."""
    return int(model.config.get_text_config().hidden_size)


def pupil(
    settled: Settled, whole: nn.Module, model: PreTrainedModel, new: tuple[str, ...], tutor: Tutor,
) -> Pupil:
    """The learner of a student: `whole` is what trains, `model` the model in it as it was before tuning.

    RequestError where teacher.hidden.layers names a layer that isn't there.
    """
    recipe, family = settled.recipe, settled.family
    spec, numbers = recipe.teacher, model.config.problem_type == "regression" or recipe.learning.whole
    assert spec is not None  # the tutor is its
    taught = Taught(recipe.learning, spec, numbers)
    if spec.hidden is None or tutor.stacks is None:
        return Pupil(whole, taught, family, new, tutor)
    ours = layers_of(model, family)
    for mine, their in zip(ours, tutor.stacks, strict=True):
        pairs = matched(spec.hidden, depth(model, family, mine), depth(tutor.model, tutor.family, their))
        log.info("teacher: the student's layers learn from its, counted from 0: %s",
                 ", ".join(f"{one} from {other}" for one, other in pairs.items()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        projection = projection_of(width_of(model), tutor.width)
    if projection is not None:
        log.info("teacher: a matrix from the student's width, %d, to its own, %d, is learned with the states",
                 width_of(model), tutor.width)
    return Pupil(whole, replace(taught, stacks=len(ours)), family, new, tutor, ours, projection)


def depth(model: Any, family: type[Family], stack: Sequence[nn.Module]) -> int:
    """How many layers a stack has, those that share their weights counted one by one."""
    return int(model.config.num_hidden_layers) if family.shares else len(stack)
