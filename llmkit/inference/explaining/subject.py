"""A model, what it reads, and what of its answer is explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family
from llmkit.inference.explaining.aim import Aim
from llmkit.inference.explaining.choices import Choices
from llmkit.inference.explaining.shown import ShownToken, shown, virtual
from llmkit.inference.writing.context import base_of
from llmkit.objectives.base import only_at
from llmkit.objectives.shared import text_head
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

LONGEST = 512
"""Tokens of a text at most: a picture of more shows nothing, and each of them is a pass over the text."""
LIKELIEST = 5
"""Answers that are told beside the one that is explained."""
AT_ONCE = 4096
"""Positions that are computed together."""
LABELS, CHOICES = text_head.WHOLE, "AutoModelForMultipleChoice"
WORDS = ("AutoModelForMaskedLM", "AutoModelForPreTraining", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Auto classes of models that say labels of a text, and words."""


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
    row: Mapping[str, Any] = field(default_factory=dict)
    """What its task reads beside the text, or instead: words, a context, choices."""
    choices: Choices | None = None
    """All rows of a question with choices; `inputs` are those of the choice that is explained."""
    likeliest: tuple[tuple[str, float], ...] = ()
    """Answers with their probabilities, where these aren't columns of what the model says: parts of a text."""
    notes: tuple[str, ...] = ()
    """What was left out of what is read."""

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

    @cached_property
    def beside(self) -> tuple[tuple[str, ShownToken], ...]:
        """(choice, token) of what other choices have for themselves; empty where nothing is chosen among."""
        if self.choices is None or self.aim is None:
            return ()
        ids, names = self.choices.rows, self.choices.names
        told = [shown(row["input_ids"][0].tolist(), self.tokenizer) for row in ids]
        return tuple((names[row], told[row][place]) for row, place in self.choices.others(self.aim.index))

    @property
    def whole(self) -> dict[str, Tensor]:
        """All rows that an answer is made of, as they are: one, or one a choice: (rows, tokens)."""
        return self.inputs if self.choices is None else self.choices.together

    def repeated(self, times: int) -> dict[str, Tensor]:
        """The whole so many times: (times x rows, tokens)."""
        return {name: tensor.repeat(times, *[1] * (tensor.ndim - 1)) for name, tensor in self.whole.items()}

    def ask(self, inputs: Mapping[str, Tensor], **how: Any) -> Any:
        """What the model's class answers; of choices, each row by itself."""
        if self.kind == CHOICES:
            inputs = {name: tensor[:, None] for name, tensor in inputs.items()}
        return self.model(**inputs, **how)

    def answers(self, inputs: Mapping[str, Tensor], aim: Aim | None = None) -> Tensor:
        """What the model says of each row, in logarithms of probabilities, (rows, answers); of a number, that.

        `aim` says where an answer is said, where that isn't the subject's own place; of choices, `inputs` has those of
        a question one below the other.
        """
        import torch

        aim = aim or self.weighed()
        if aim.is_word:
            return self._words(inputs, aim)
        logits: Tensor = self.ask(inputs).logits.float()
        if self.averages:
            logits = text_head.of_text(logits, inputs.get("attention_mask"))
        if aim.kind == "number":
            return logits
        if aim.kind == "one of several labels":
            return torch.nn.functional.logsigmoid(logits)
        if self.choices is not None:
            logits = logits.view(-1, len(self.choices.rows))
        return (logits[:, aim.where] if aim.kind == "tag" else logits).log_softmax(-1)

    def _words(self, inputs: Mapping[str, Tensor], aim: Aim) -> Tensor:
        """(rows, vocabulary)"""
        import torch

        side = inputs.get("decoder_input_ids", inputs["input_ids"])
        wanted = torch.zeros(side.shape, dtype=torch.bool, device=side.device)
        wanted[:, aim.where] = True
        with only_at(self.model, self.family.heads[self.kind], wanted):
            out = self.model(**inputs)
        said: Tensor = out["prediction_logits"] if "prediction_logits" in out else out["logits"]
        return said.float().log_softmax(-1)

    def ends(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where an answer starts, and where it ends: logits, (rows, tokens) each."""
        out = self.model(**inputs)
        return out.start_logits.float(), out.end_logits.float()

    def score(self, inputs: Mapping[str, Tensor], aim: Aim | None = None) -> Tensor:
        """Of each row the logarithm of the probability of what is explained, or the number that it is: (rows,)

        Of an answer in a text, that of its first token as a start, and of its last one as an end, added.
        """
        aim = aim or self.weighed()
        if not aim.is_span:
            return self.answers(inputs, aim)[:, aim.index]
        start, end = (logits.log_softmax(-1) for logits in self.ends(inputs))
        if aim.until == -1:
            return start[:, aim.where]
        return end[:, aim.until] if aim.where == -1 else start[:, aim.where] + end[:, aim.until]

    def weighed(self) -> Aim:
        """The aim; RequestError where there is none."""
        if self.aim is None:
            raise RequestError(f"--what tokens: {self.lacks}")
        return self.aim


def name_of_answer(subject: Subject, index: int) -> str:
    """What a column of the model's answers is called."""
    assert subject.aim is not None
    if subject.choices is not None:
        return subject.choices.names[index]
    if not subject.aim.is_word:
        return str(subject.base.config.id2label.get(index, index)) if subject.aim.kind != "number" else "the number"
    return shown([index], subject.tokenizer)[0].text


def inputs_of(**columns: Any) -> dict[str, Tensor]:
    """One row of a batch: (1, tokens) each, and a mask, for nothing is padding."""
    import torch

    rows = {name: torch.as_tensor(values, dtype=torch.long)[None] for name, values in columns.items()}
    return {**rows, "attention_mask": torch.ones_like(rows["input_ids"])}


def lined_up(size: int, tokens: Sequence[ShownToken], subject: Subject) -> tuple[tuple[ShownToken, ...], list[int]]:
    """What stands at each of so many positions inside the model, and where each token went; virtual tokens are beside.

    A soft prompt may stand on both sides of a text; of a prefix, its keys stand before all others.
    """
    places = places_of(size, len(tokens), subject.inputs["attention_mask"], subject)
    there, beside = dict(zip(places, tokens, strict=True)), iter(virtual(size - len(tokens)))
    return tuple(there[i] if i in there else next(beside) for i in range(size)), places


def places_of(size: int, length: int, mask: Tensor, subject: Subject) -> list[int]:
    """Where each of so many tokens stands among the positions inside the model; `mask` (1, tokens) is of padding."""
    more = size - length
    prompt = dict(subject.model.named_children()).get("soft_prompt")
    if more and prompt is not None and more == prompt.tokens:
        found: list[int] = prompt.lay_out(1, length, mask, mask.device).places[0].tolist()
        return found
    return list(range(more, size))
