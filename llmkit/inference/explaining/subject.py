"""A model, one text, and what of the model's answer is explained: a label, the next word, the word behind a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmkit import models
from llmkit.backbones.base import Family
from llmkit.data.encoder import Unknown
from llmkit.data.memory import memory_reader
from llmkit.data.tokens import encode
from llmkit.inference.evaluate import make_ready
from llmkit.inference.explaining.shown import ShownToken, shown, single, virtual
from llmkit.inference.writing.context import base_of
from llmkit.inference.writing.filling import MASKS
from llmkit.inference.writing.opening import INSTEAD
from llmkit.models import Base
from llmkit.models.run import recipe_of
from llmkit.objectives.base import only_at
from llmkit.objectives.shared import text_head
from llmkit.objectives.span_corruption import sentinels
from llmkit.system import devices, report
from llmkit.system.errors import RequestError, nearest
from llmkit.system.report import log
from llmkit.tasks.base import cut_short
from llmkit.tasks.classification import Classification
from llmkit.tasks.shared.writing import Writing, begins

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

LONGEST = 512
"""Tokens of a text at most: a picture of more shows nothing, and each of them is a pass over the text."""
AT_ONCE = 4096
"""Positions that are computed together."""
LABELS = text_head.WHOLE
WORDS = ("AutoModelForMaskedLM", "AutoModelForPreTraining", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Auto classes of models that say labels of a text, and words."""
LIKELIEST = 5
"""Answers that are told beside the one that is explained."""


@dataclass(frozen=True)
class Aim:
    """The answer that is explained."""

    kind: Literal["label", "one of several labels", "number", "next word", "masked word", "written word"]
    name: str
    index: int
    """Its column among what the model says."""
    where: int = -1
    """Of a word: the position that says it, in the row that is read, or in what the decoder has written."""

    @property
    def is_word(self) -> bool:
        """Whether it is one of the vocabulary."""
        return self.kind.endswith("word")


@dataclass(frozen=True)
class Subject:
    """A model in eval mode, and a text as it reads it."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    family: type[Family]
    kind: str
    """The auto class that it is opened with; of one that `averages`, that of an answer a text."""
    text: str
    inputs: dict[str, Tensor]
    """Of one row: input_ids (1, tokens), attention_mask, and where there are some token_type_ids, decoder_input_ids."""
    virtual_tokens: int = 0
    aim: Aim | None = None
    averages: bool = False
    """Whether the answer is the mean of what the head says of each token."""
    lacks: str = ""
    """Why there is no answer whose tokens could be weighed; "" where there is one."""

    @property
    def ids(self) -> list[int]:
        """What is read."""
        found: list[int] = self.inputs["input_ids"][0].tolist()
        return found

    @cached_property
    def tokens(self) -> tuple[ShownToken, ...]:
        """What is read, as a person reads it."""
        return shown(self.ids, self.tokenizer)

    @cached_property
    def written(self) -> tuple[ShownToken, ...]:
        """What a decoder has written so far; empty where there is no decoder beside the encoder."""
        if "decoder_input_ids" not in self.inputs:
            return ()
        found = shown(self.inputs["decoder_input_ids"][0].tolist(), self.tokenizer)
        return (replace(found[0], special=True), *found[1:])  # the token that it starts from

    @cached_property
    def base(self) -> Any:
        """The model of transformers, below an adapter of peft's."""
        return base_of(self.model)

    @property
    def says_words(self) -> bool:
        """Whether its head says words; a discriminator's says which of them were replaced."""
        return self.kind in WORDS and not (self.kind == "AutoModelForPreTraining" == self.family.detector)

    @property
    def places(self) -> list[int]:
        """The tokens that can be taken away: those of the text itself."""
        return [i for i, piece in enumerate(self.tokens) if not piece.special]

    def repeated(self, rows: int) -> dict[str, Tensor]:
        """The inputs so many times."""
        return {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in self.inputs.items()}

    def answers(self, inputs: dict[str, Tensor], where: int | None = None) -> Tensor:
        """What the model says of each row, in logarithms of probabilities, (rows, choices); of a number, that.

        `where` is the position that says a word, where that isn't the aim's.
        """
        import torch

        aim = self.aim
        assert aim is not None  # whoever asks has looked
        if not aim.is_word:
            logits = text_head.of_text(self.model(**inputs).logits.float(), inputs.get("attention_mask"))
            return {"label": logits.log_softmax, "number": lambda _: logits}.get(
                aim.kind, lambda _: torch.nn.functional.logsigmoid(logits))(-1)
        side = inputs.get("decoder_input_ids", inputs["input_ids"])
        wanted = torch.zeros(side.shape, dtype=torch.bool, device=side.device)
        wanted[:, aim.where if where is None else where] = True
        with only_at(self.model, self.family.heads[self.kind], wanted):
            out = self.model(**inputs)
        said: Tensor = out["prediction_logits"] if "prediction_logits" in out else out["logits"]
        return said.float().log_softmax(-1)

    def score(self, inputs: dict[str, Tensor], where: int | None = None) -> Tensor:
        """Of each row the logarithm of the probability of what is explained, or the number that it is: (rows,)"""
        assert self.aim is not None
        return self.answers(inputs, where)[:, self.aim.index]

    def weighed(self) -> Aim:
        """The aim; RequestError where there is none."""
        if self.aim is None:
            raise RequestError(f"--what tokens: {self.lacks}")
        return self.aim


def open_subject(
    model: str | Path, text: str, *, pair: str | None = None, written: str | None = None, target: str | None = None,
) -> Subject:
    """Open a model and read a text with it as it would for its task.

    pair      the second text, where a classifier reads two
    written   what an encoder-decoder has written so far
    target    the label or the word that is explained; the likeliest where nothing is said

    RequestError where the text is empty or too long, or the target isn't one.
    """
    if not text.strip():
        raise RequestError("TEXT: there is nothing in it to be explained.")
    report.quiet_libraries()
    learned = recipe_of(model)
    task = None if learned is None else learned.task
    found = _as_learned(model, task, text, pair) if isinstance(task, Classification | Writing) else _plain(
        model, text, pair)
    _fits(found)
    unknown = Unknown(found.tokenizer)
    unknown.see(found.ids, text)
    unknown.warn(found.name)
    return _aimed(_on_device(_writing(found, written)), target)


def _as_learned(model: str | Path, task: Classification | Writing, text: str, pair: str | None) -> Subject:
    """A run of a task: the text stands in its template and its prompt, cut as its rows were."""
    ready, cut = make_ready(model), list[int]()
    (first, *_) = task.wanted
    row = {first: text, **({} if pair is None else {"text_pair": pair})}
    if pair is not None and not isinstance(task, Classification):
        raise RequestError("--pair: a second text is for classifiers that were trained on two.")
    objective: Any = ready.learner.objective
    rows = list(objective.stream(memory_reader([row], "TEXT"), answered=False))  # as its own rows are read and checked
    (features, *_) = objective.featured(rows, ready.setup, cut)
    if cut:
        log.warning(cut_short(cut, ready.setup.max_length))
    head = task.head_for(ready.learner.family)
    averages = isinstance(task, Classification) and head == text_head.TOKENS
    return Subject(str(model), ready.learner.tuned, ready.setup.tokenizer, ready.learner.family,
                   LABELS if averages else head, text,
                   _inputs(**{name: features[name] for name in ("input_ids", "token_type_ids") if name in features}),
                   ready.learned.tuning.virtual_tokens if ready.learned is not None else 0, averages=averages)


def _plain(model: str | Path, text: str, pair: str | None) -> Subject:
    """Any other model: the text as its tokenizer has it."""
    base = Base.open(model)
    family, opened = base.family, models.open_model(base)
    tokenizer, kind = opened.tokenizer, opened.kind
    averages = text_head.averages(kind, opened.folder)
    kind = LABELS if averages else kind
    if kind in ("AutoModelForCausalLM",) and family.shape == "decoder":
        if pair is not None:
            raise RequestError("--pair: a second text is for classifiers that were trained on two.")
        begin = [int(tokenizer.bos_token_id or 0)] if begins(tokenizer) else []
        inputs = _inputs(input_ids=[*begin, *encode(tokenizer, [text])[0]])
    else:
        for mark in MASKS:  # whatever the tokenizer calls its mask
            if tokenizer.mask_token is not None and mark not in tokenizer.get_vocab():
                text = text.replace(mark, str(tokenizer.mask_token))
        read = tokenizer(text, pair)
        types = family.shape == "encoder" and "token_type_ids" in read
        inputs = _inputs(**{name: read[name] for name in ("input_ids", *(["token_type_ids"] if types else []))})
    return Subject(str(model), opened.model, tokenizer, family, kind, text, inputs, opened.virtual_tokens,
                   averages=averages)


def _inputs(**columns: Any) -> dict[str, Tensor]:
    """One row of a batch: (1, tokens) each, and a mask, for nothing is padding."""
    import torch

    rows = {name: torch.as_tensor(values, dtype=torch.long)[None] for name, values in columns.items()}
    return {**rows, "attention_mask": torch.ones_like(rows["input_ids"])}


def _fits(subject: Subject) -> None:
    """RequestError where a text has more tokens than the model has positions, or than can be looked at."""
    limit = subject.family.position_limit(subject.base.config)
    most = LONGEST if limit is None else min(LONGEST, limit - subject.virtual_tokens)
    if len(subject.ids) > most:
        why = "can be looked at" if most == LONGEST else "the model has positions for"
        raise RequestError(f"TEXT: its {len(subject.ids):,} tokens are more than the {most:,} that {why}; shorten it.")
    if not subject.places:
        raise RequestError(f"TEXT: {subject.text!r} has no tokens to this model.")


def _writing(subject: Subject, written: str | None) -> Subject:
    """With what the decoder of an encoder-decoder has written: where nothing is said, a hole's mark, or nothing."""
    if subject.kind != "AutoModelForSeq2SeqLM":
        if written is not None:
            raise RequestError("--written: is for encoder-decoders; of a model that writes on, let it stand in TEXT.")
        return subject
    import torch

    config, tokenizer = subject.base.config, subject.tokenizer
    start = config.decoder_start_token_id
    ids = [int(start if start is not None else subject.family.decoder_start(tokenizer))]
    if written is not None:
        ids += encode(tokenizer, [written])[0]
    else:
        known = set(sentinels(tokenizer))
        ids += next(([one] for one in subject.ids if one in known), [])
    return replace(subject, inputs={**subject.inputs, "decoder_input_ids": torch.tensor([ids])})


def _on_device(subject: Subject) -> Subject:
    """On a GPU, where there is one."""
    device = devices.kind()
    subject.model.to(device).eval()
    return replace(subject, inputs={name: tensor.to(device) for name, tensor in subject.inputs.items()})


# ---- what is explained ----

def _aimed(subject: Subject, target: str | None) -> Subject:
    """With the answer that is explained; where there is none, with the reason."""
    import torch

    kind, config = subject.kind, subject.base.config
    lacks = _lacks(subject)
    if lacks:
        if target is not None:
            raise RequestError(f"--target {target}: {lacks}")
        return replace(subject, lacks=lacks)
    if kind == LABELS:
        names = {"multi_label_classification": "one of several labels", "regression": "number"}
        what: Any = names.get(str(config.problem_type), "label" if config.num_labels > 1 else "number")
        asked = replace(subject, aim=Aim(what, "", 0))
    elif kind == "AutoModelForCausalLM":
        asked = replace(subject, aim=Aim("next word", "", 0, len(subject.ids) - 1))
    elif kind == "AutoModelForSeq2SeqLM":
        asked = replace(subject, aim=Aim("written word", "", 0, len(subject.written) - 1))
    else:
        asked = replace(subject, aim=Aim(
            "masked word", "", 0, subject.ids.index(int(subject.tokenizer.mask_token_id or 0))))
    with torch.no_grad():
        said = asked.answers(asked.inputs)[0]
    index = int(said.argmax()) if target is None else _index(asked, target, said)
    assert asked.aim is not None
    return replace(asked, aim=replace(asked.aim, index=index, name=name_of_answer(asked, index)))


def _lacks(subject: Subject) -> str:
    """Why a model has no answer to a text whose tokens could be weighed; "" where it has one."""
    kind, family = subject.kind, subject.family
    if kind == LABELS:
        return ""
    if not subject.says_words:
        return (f"{subject.name} {INSTEAD.get(kind, 'says neither labels nor words')}: there is no label and no word "
                "whose tokens could be weighed; what it attends to can be shown: --what attention.")
    if family.shape == "permuted":
        return (f"{subject.name} predicts words in any order, and a text alone doesn't say which; what it attends to "
                "can be shown: --what attention.")
    if family.shape == "encoder" and subject.tokenizer.mask_token_id not in subject.ids:
        mask = subject.tokenizer.mask_token
        if mask is None:
            return f"{subject.name}: its tokenizer has no mask token, so that no word can be asked for."
        return (f"TEXT has no mask, and {subject.name} says the word behind one: put {mask} where a word is to be "
                f"predicted, as in {' '.join([*subject.text.split()[:5], str(mask)])!r}.")
    return ""


def _index(subject: Subject, target: str, said: Tensor) -> int:
    """The column of what is asked for; RequestError where there is none."""
    aim = subject.aim
    assert aim is not None
    if aim.kind == "number":
        raise RequestError(f"--target {target}: {subject.name} says one number of a text; leave --target out.")
    if aim.is_word:
        found = [one for one in single(target, subject.tokenizer) if one < len(said)]
        if not found:
            ids = subject.tokenizer(target, add_special_tokens=False)["input_ids"]
            parts = ", ".join(repr(piece.text) for piece in shown(ids, subject.tokenizer))
            raise RequestError(f"--target {target}: is no single token of this model, but {len(ids)}: {parts}. Name "
                               "one of these.")
        return max(found, key=lambda one: float(said[one]))
    names = {str(name): int(number) for number, name in subject.base.config.id2label.items()}
    if target not in names:
        raise RequestError(f"--target {target}: no label is called so.{nearest(target, names)}")
    return names[target]


def name_of_answer(subject: Subject, index: int) -> str:
    """What a column of the model's answers is called."""
    assert subject.aim is not None
    if not subject.aim.is_word:
        return str(subject.base.config.id2label.get(index, index)) if subject.aim.kind != "number" else "the number"
    return shown([index], subject.tokenizer)[0].text


def lined_up(size: int, tokens: Sequence[ShownToken], subject: Subject) -> tuple[tuple[ShownToken, ...], list[int]]:
    """What stands at each of so many positions inside the model, and where each token went; virtual tokens are beside.

    A soft prompt may stand on both sides of a text; of a prefix, its keys stand before all others.
    """
    more = size - len(tokens)
    if more == 0:
        return tuple(tokens), list(range(size))
    prompt = dict(subject.model.named_children()).get("soft_prompt")
    if prompt is not None and more == prompt.tokens:
        mask = subject.inputs["attention_mask"]
        layout = prompt.lay_out(1, len(tokens), mask, mask.device)
        places, slots = layout.places[0].tolist(), layout.slots[0].tolist()
        row: list[ShownToken] = [ShownToken(None, "")] * size
        for place, piece in zip([*places, *slots], [*tokens, *virtual(more)], strict=True):
            row[place] = piece
        return tuple(row), places
    return (*virtual(more), *tokens), list(range(more, size))
