"""The contract of a tuning method: given a model, decide what trains, and how that is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from llmkit.backbones.base import Family
from llmkit.recipe.promises import METHOD
from llmkit.recipe.watching import lacking, watch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASK_TYPES = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModelForMaskedLM": "FEATURE_EXTRACTION",
}
"""peft's task type by auto class; it has none for masked LM, and this one calls the model as it is."""


@dataclass(frozen=True)
class Setting:
    """What a tuning method may need to know of the run around it."""

    family: type[Family]
    head: str
    """The auto class that the model was made with."""
    new: tuple[str, ...] = ()
    """Parts that start from random weights (a new head): they train whatever the method, and are saved with it."""
    base: str = ""
    """What the saved adapter says it belongs to: a folder or a hub id."""
    gradient_checkpointing: bool = False
    unpadded: bool = False
    """Whether layers get the tokens of all rows in one, without padding."""
    packed: bool = False
    """Whether several documents share a row, each seeing only itself."""
    steps: int | None = None
    """Optimizer steps of the whole run; None where it ends by tokens or minutes."""
    epoch: float = 0.0
    """Steps that a pass over the training rows takes."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """The run's: some methods start from words."""
    learning_rate: float = 0.0
    """The run's."""
    model_learning_rate: float = 0.0
    """The usual one of the whole model, with the run's optimizer and from where it starts."""


class Tuning:
    """A tuning method; its dataclass fields are its options in the recipe."""

    adapter: ClassVar[bool] = True
    """Whether it leaves the model as it is and saves only what it adds."""
    learning_rate: ClassVar[float] = 1e-3
    """The usual rate for a pretrained model, where the recipe names none."""
    counted: ClassVar[bool] = False
    """Whether what it does in a step depends on how many there are: such a run's length is in steps or epochs."""
    undecayed: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of vectors that are stored as matrices: like other vectors they don't decay."""
    whole: ClassVar[bool] = False
    """Whether everything trains."""
    attends: ClassVar[bool] = False
    """Whether attention is its own: then no other way of attending can be chosen."""

    shards: ClassVar[bool] = True
    """Whether what it does to a model's weights can be done to parts of them that lie on several processes."""

    def __init_subclass__(cls) -> None:
        """People's own are looked at as they are called."""
        super().__init_subclass__()
        watch(cls, METHOD)

    @property
    def trains_model(self) -> bool:
        """Whether weights of the model itself train: an adapter's may too, and are then saved with it."""
        return not self.adapter

    @property
    def virtual_tokens(self) -> int:
        """Positions that it takes from the model's."""
        return 0

    @property
    def unquantized(self) -> str:
        """Why what it tunes can't be quantised; "" where it can, as whatever leaves the model's own weights alone."""
        return "" if self.adapter else "it trains the model's own weights, and those of 4 or 8 bits have no gradient"

    def check(self, family: type[Family], head: str) -> None:
        """Raise RequestError, before anything is loaded, where a family or a head can't be tuned so."""

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """Raise RequestError where the model's parts can't be tuned so; `make` makes one, weightless, no head new."""

    def packs(self, family: type[Family]) -> bool:
        """Whether several documents may share a row, each seeing only itself."""
        return True

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model to train: same inputs, outputs for the same positions, `requires_grad` set."""
        raise lacking(self, "apply", METHOD)

    def penalty(self, model: PreTrainedModel) -> Tensor | None:
        """What is added to the mean loss of each step, on the weights alone; no figure of the run has it in it."""
        return None

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        """What follows the optimizer's step number `step`, from 1, while the gradients are there.

        All processes have the same weights and gradients, and must do the same.
        """

    def state(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """What a checkpoint must keep besides what trains, for a resumed run to go on bit for bit."""
        return {}

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""

    def rates(self, model: PreTrainedModel, setting: Setting) -> Mapping[str, float]:
        """Factors on the learning rate, by a parameter's name in the tuned model; 1 for all others."""
        return {}

    def wakes(self, model: PreTrainedModel, setting: Setting) -> Mapping[str, int]:
        """The step from which a parameter trains, by its name in the tuned model; 0, the first, for all others."""
        return {}

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write what was trained in the layout that transformers or peft reads."""
        model.save_pretrained(folder)

    def describe(self) -> str:
        """A few words on how it is done, for the log."""
        return ""
