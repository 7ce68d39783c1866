"""Prompt tuning: learned embeddings stand before the text, and the model stays as it is (Lester et al. 2021)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.models.layout import BASE
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import TASK_TYPES, Setting, Tuning
from llmkit.tuning.shared import parts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmkit.tuning.shared.near_words import WordEmbeddings

HOLE, SOFT = "{text}", "<soft>"
"""What a template has for the text, and for a virtual token that stands for no word."""


@dataclass(config=OPTIONS)
class Prompt(Tuning):
    """A few embeddings that no word has train; a new head trains with them.

    An encoder reads them behind its [CLS], an encoder-decoder in its encoder. They can't be merged into the model: they
    aren't a change to its weights but tokens of its input.

    The rate is high, as in the paper (0.3 for Adafactor). With train_model the model trains too, at a rate of its own
    (Liu et al. 2023, "Pre-train, Prompt, and Predict", §7.2.5), and is saved beside the prompt. A prompt may be kept
    near words, by a penalty or in each step; the words that come out of it aren't always ones that a person would
    read (Khashabi et al. 2022, "Prompt Waywardness").
    """

    learning_rate = 1e-1

    num_virtual_tokens: Annotated[int, Field(ge=1)] | None = None
    """Embeddings before the text; 20 where neither this nor a template says."""
    prompt_tuning_init: Literal["random", "vocabulary", "text"] = "vocabulary"
    """What they start from: noise, words of the vocabulary, or the tokens of a text, repeated or cut to fit."""
    prompt_tuning_init_text: str | None = None
    """That text."""
    template: str | None = None
    """Words around {text}, one virtual token each that starts from the word; <soft> is one that stands for no word."""
    train_model: bool = False
    """Whether the model trains with its prompt; both are saved."""
    model_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The model's rate, where it trains; else the usual one of full. The prompt has training.learning_rate."""
    nearest: Literal["free", "project"] = "free"
    """What the model reads: the prompt as it is, or of each virtual token the nearest word of the vocabulary, while the
    gradient moves the prompt itself (PEZ; Wen et al. 2023)."""
    near_words: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a penalty, the mean squared distance of the virtual tokens to their nearest words; it is added to each
    step's loss, not to the figures."""

    @property
    def trains_model(self) -> bool:
        """As the recipe says."""
        return self.train_model

    @property
    def virtual_tokens(self) -> int:
        """Each takes a position."""
        if self.template is not None:
            return sum(len(side) for side in sides(self.template))
        return 20 if self.num_virtual_tokens is None else self.num_virtual_tokens

    def check(self, family: type[Family], head: str) -> None:
        """Options that fit each other and what the model reads."""
        if self.prompt_tuning_init == "text" and not (self.prompt_tuning_init_text or "").strip():
            raise RequestError("tuning.prompt_tuning_init_text: give the text that the prompt starts from.")
        if self.prompt_tuning_init != "text" and self.prompt_tuning_init_text is not None:
            raise RequestError("tuning.prompt_tuning_init_text: the prompt starts from it only with "
                               "prompt_tuning_init: text.")
        if self.model_learning_rate is not None and not self.train_model:
            raise RequestError(f"tuning.model_learning_rate: {self.model_learning_rate:g} is the rate of a model that "
                               "trains with its prompt; say train_model: true, or leave it out.")
        if self.template is None:
            return
        if self.num_virtual_tokens is not None:
            raise RequestError(f"tuning.num_virtual_tokens: the template's words say how many: {self.virtual_tokens}. "
                               "Leave it out.")
        if self.template.count(HOLE) != 1 or not self.virtual_tokens:
            raise RequestError(f"tuning.template: {self.template!r} must have {HOLE} once, and words around it.")
        if "<mask>" in self.template or "[MASK]" in self.template:
            raise RequestError(f"tuning.template: {self.template!r} asks for a prediction, and that is the head's; "
                               "leave the mask out.")
        if self.prompt_tuning_init == "text" and SOFT not in self.template:
            raise RequestError(f"tuning.prompt_tuning_init_text: no {SOFT} of the template starts from it.")
        if family.shape == "decoder" and sides(self.template)[1]:
            raise RequestError(f"tuning.template: {family.model_type} reads from left to right and never sees what is "
                               f"behind {HOLE}; put all words before it.")

    def packs(self, family: type[Family]) -> bool:
        """In a decoder a prompt doesn't depend on what follows; elsewhere each document would need one of its own."""
        return family.shape == "decoder"

    def describe(self) -> str:
        """`20 virtual tokens`."""
        start = "a template" if self.template is not None else self.prompt_tuning_init
        near = ", read as the nearest words" if self.nearest == "project" else ""
        near += f", drawn to words by {self.near_words:g}" if self.near_words else ""
        return f"{self.virtual_tokens} virtual tokens, from {start}{near}"

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model with a prompt; this and the parts that are new train, and the model where it is told to."""
        from llmkit.tuning.shared import soft_prompt as soft

        shape, tokenizer = setting.family.shape, setting.tokenizer
        before, after = sides(self.template) if self.template is not None else ([SOFT] * self.virtual_tokens, [])
        task = None if setting.head == "AutoModelForMaskedLM" else TASK_TYPES.get(setting.head, "FEATURE_EXTRACTION")
        plain = soft.PLAIN_SHAPES.get(str(task)) == shape and not after and soft.takes_embeddings(model, shape)
        rows = self.start(model, shape, [*before, *after], tokenizer)
        soft.attach(
            model, soft.SoftPromptAdapter(
                shape=shape, before=len(before), after=len(after), closed=closes(tokenizer),
                new=() if self.train_model else setting.new, plain=plain, task_type=task, base=setting.base),
            self.rows(rows), words=self.vocabulary(model, shape, tokenizer), projects=self.nearest == "project",
            train_model=self.train_model)
        return model

    def vocabulary(
        self, model: PreTrainedModel, shape: str, tokenizer: PreTrainedTokenizerBase | None,
    ) -> WordEmbeddings | None:
        """The words that the prompt is kept near to; None where it is free."""
        from llmkit.tuning.shared import soft_prompt as soft
        from llmkit.tuning.shared.near_words import table_of

        if self.nearest == "free" and not self.near_words:
            return None
        return table_of(soft.parts(model, shape)[0].get_input_embeddings(), tokenizer)

    def penalty(self, model: PreTrainedModel) -> Tensor | None:
        """near_words times the mean squared distance to the nearest words."""
        from llmkit.tuning.shared.near_words import strayed

        if not self.near_words:
            return None
        prompt: Any = model.soft_prompt
        return self.near_words * strayed(prompt.rows(), prompt.words)

    def rates(self, model: PreTrainedModel, setting: Setting) -> Mapping[str, float]:
        """What the model's rate is of the prompt's."""
        if not self.train_model or not setting.learning_rate:
            return {}
        factor = (self.model_learning_rate or setting.model_learning_rate) / setting.learning_rate
        return {name: factor for name, _ in model.named_parameters()
                if not parts.within(name, ("soft_prompt", *setting.new))}

    def rows(self, start: Tensor) -> nn.Module:
        """What trains: a table that starts from these rows."""
        from llmkit.tuning.shared.soft_prompt import PromptTable

        return PromptTable(start)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter: one that peft opens wherever peft gives the same outputs, else one for `load`."""
        from llmkit.tuning.shared import soft_prompt as soft

        soft.save(model, folder)
        if self.train_model:
            soft.save_model(model, folder / BASE)

    def start(
        self, model: PreTrainedModel, shape: str, tokens: list[str], tokenizer: PreTrainedTokenizerBase | None
    ) -> Tensor:
        """The rows that the prompt starts from, (virtual, width): of words the mean of their pieces."""
        import torch

        from llmkit.tuning.shared.soft_prompt import words

        count = tokens.count(SOFT)
        size = model.config.get_text_config().vocab_size
        if self.prompt_tuning_init == "text":
            chosen = torch.tensor(fitted(self.prompt_tuning_init_text or "", tokenizer, count))
        else:
            common = torch.tensor(frequent(tokenizer) or range(size))
            chosen = common[torch.randint(len(common), (count,))]
        free = words(model, shape, chosen)
        if self.prompt_tuning_init == "random":
            some = words(model, shape, torch.arange(min(size, 5000)))
            free = some.std() * torch.randn(count, some.shape[1]).to(some.device)
        unused = iter(free)
        return torch.stack([
            next(unused) if token == SOFT else words(model, shape, torch.tensor(pieces(token, tokenizer))).mean(0)
            for token in tokens])


def sides(template: str) -> tuple[list[str], list[str]]:
    """The words before and behind the text: `<soft> {text} It was great.` -> [<soft>], [" It", " was", " great", "."]

    A word has a space before it where it would have one in a text, which byte-level tokenizers tell apart.
    """
    found = [re.findall(rf"{SOFT}|\s*\w+|\s*[^\w\s]", re.sub(rf"\s*{SOFT}", SOFT, f" {side.strip()}"))
             for side in template.split(HOLE, 1)]
    return found[0], found[1] if len(found) > 1 else []


def pieces(text: str, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """The ids of a text, without special tokens."""
    assert tokenizer is not None  # a run always has one
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise RequestError(f"tuning: {text!r} has no token to start a prompt from.")
    return ids


def fitted(text: str, tokenizer: PreTrainedTokenizerBase | None, count: int) -> list[int]:
    """The ids of a text, repeated or cut until there are `count`."""
    ids = pieces(text, tokenizer)
    return (ids * (count // len(ids) + 1))[:count]


def frequent(tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """The first 5,000 tokens with letters (Lester et al. 2021, §3.2): trained tokenizers number the frequent first."""
    if tokenizer is None:
        return []
    special = set(tokenizer.all_special_tokens)
    known = sorted((place, word) for word, place in tokenizer.get_vocab().items()
                   if word not in special and any(map(str.isalpha, word)) and not re.fullmatch(r"[\[<].+[\]>]", word))
    return [place for place, _ in known[:5000]]


def closes(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether a tokenizer ends every text with a special token."""
    ids = [] if tokenizer is None else tokenizer("a")["input_ids"]
    return bool(ids) and ids[-1] in tokenizer.all_special_ids  # type: ignore[union-attr]


def load(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put what `Prompt.save` wrote on a model like the one it was trained on; CheckpointError where it doesn't fit."""
    from llmkit.tuning.shared import soft_prompt as soft

    return soft.load(model, folder)
