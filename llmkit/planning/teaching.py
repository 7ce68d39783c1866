"""A recipe's teacher, before anything is loaded: is it there, and can it be asked what the student is asked?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llmkit.data.tokenizer_files import has_tokenizer
from llmkit.models.base import Base
from llmkit.recipe import Recipe, Teacher, fits, registry
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from llmkit.backbones.base import Family

log = logging.getLogger("llmkit")


def teacher_of(recipe: Recipe, spec: Teacher, family: type[Family]) -> Base:
    """The teacher of a settled recipe whose student is of a family; RequestError where it can't be asked.

    What it costs to know comes later: whether its vocabulary, its labels and its head are those of the task.
    """
    try:
        base = Base.open(spec.model, spec.revision)
    except RequestError as error:
        raise RequestError(f"teacher.model: {error}") from error
    if base.commit is not None:
        log.info("teacher.model %s: commit %s", spec.model, base.commit)
    whole = base.below if base.is_adapter else base
    whole.check_weights()
    check_task(recipe, spec, base.family)
    check_rows(recipe, spec, base, family)
    if spec.hidden is not None:
        check_layers(spec, base.family, family, recipe.learning.head_for(family))
    if spec.alpha == 0 and spec.hidden is None:
        log.warning("teacher.alpha 0: the teacher is asked, and nothing is learned from it; its answers are only "
                    "compared")
    return base


def check_task(recipe: Recipe, spec: Teacher, family: type[Family]) -> None:
    """RequestError where a teacher's family has no head for what is learned."""
    if not fits(recipe.learning, family):
        raise RequestError(f"teacher.model: {spec.model} is a {family.model_type}, which can't do "
                           f"{registry.name_of(recipe.learning)}; a teacher does what its student learns.")


def check_rows(recipe: Recipe, spec: Teacher, base: Base, family: type[Family]) -> None:
    """RequestError where a teacher can't read the student's rows: too long, packed, or of another kind."""
    theirs, length = base.family, recipe.data.max_length or 0
    limit = theirs.position_limit((base.below if base.is_adapter else base).config())
    if limit is not None and length > limit:
        raise RequestError(f"teacher.model: {spec.model} has {limit} positions, and data.max_length is {length}; make "
                           f"it {limit} or less.")
    if recipe.data.packing == "documents" and theirs.mixes:
        raise RequestError(f"teacher.model: {spec.model} can't keep documents in a row apart: {theirs.mixes}; use "
                           "data.packing: blocks or none.")
    if theirs.shape != family.shape and recipe.objective is not None:
        raise RequestError(f"teacher.model: {spec.model} is of shape {theirs.shape}, and the student's rows are for "
                           f"shape {family.shape}.")
    if not has_tokenizer(base.folder) and not (base.is_adapter and has_tokenizer(base.below.folder)):
        raise RequestError(f"teacher.model: {base.folder} has no tokenizer, so that nobody knows whether it reads the "
                           "student's tokens.")


def check_layers(spec: Teacher, theirs: type[Family], family: type[Family], head: str) -> None:
    """RequestError where hidden states can't be compared layer by layer."""
    for kind, whose in ((theirs, "the teacher's"), (family, "the student's")):
        if not kind.layers:
            raise RequestError(f"teacher.hidden: llmkit has no file for {kind.model_type}, so it doesn't know {whose} "
                               f"layers ({spec.model}); leave hidden out.")
        if kind.shape == "permuted":
            raise RequestError(f"teacher.hidden: {whose} layers hold two streams of states ({kind.model_type}); leave "
                               "hidden out.")
    if family.shape == "encoder-decoder" and head != "AutoModelForSeq2SeqLM":
        raise RequestError("teacher.hidden: the decoder of an encoder-decoder reads its text again here, and has no "
                           "positions of its own; leave hidden out.")
    if theirs.shape != family.shape:
        raise RequestError(f"teacher.hidden: {spec.model} is of shape {theirs.shape} and the student of shape "
                           f"{family.shape}: their layers don't stand beside each other; leave hidden out.")


def unlike_words(ours: dict[str, int], theirs: dict[str, int]) -> str:
    """Where two vocabularies differ, in words; "" where they don't.

    'the' is 5 for the student and 7 for the teacher
    """
    if ours == theirs:
        return ""
    for word in sorted({*ours, *theirs}):
        mine, other = ours.get(word), theirs.get(word)
        if mine != other and None not in (mine, other):
            return f"{word!r} is the token {mine} for the student and {other} for the teacher"
    more, whose = ({*ours} - {*theirs}, "student") if len(ours) > len(theirs) else ({*theirs} - {*ours}, "teacher")
    return (f"the student has {len(ours):,} tokens and the teacher {len(theirs):,}; only the {whose} has "
            f"{min(more)!r}")

