"""An instruction before the input: "Is this review good or bad?" and the review."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from llmkit.prompting.shared.examples import Instructed
from llmkit.recipe.registry import OPTIONS


@dataclass(config=OPTIONS)
class Prefix(Instructed):
    """Nothing but words tells the model what to do.

    GPT-2 was asked this way first ("TL;DR:", Radford et al. 2019, §3.6), T5 was trained on it ("summarize: ", Raffel et
    al. 2020, §2.4), and models tuned on instructions follow new ones (Wei et al. 2022).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.instruction.strip():
            raise ValueError('instruction is needed: what is to be done, as "Translate into German:"')
