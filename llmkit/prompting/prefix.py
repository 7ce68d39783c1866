"""An instruction before the input: "Is this review good or bad?" and the review."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from llmkit.prompting._examples import Asking
from llmkit.registry import OPTIONS


@dataclass(config=OPTIONS)
class Prefix(Asking):
    """Nothing but words tells the model what to do.

    GPT-2 was asked this way first ("TL;DR:", Radford et al. 2019, §3.6), T5 was trained on it ("summarize: ", Raffel et
    al. 2020, §2.4), and models tuned on instructions follow new ones (Wei et al. 2022).
    """

    instruction: str = ""
    """What is to be done. It is followed by an empty line, unless it ends with a space: "summarize: "."""
    role: Literal["user", "system"] = "user"
    """Who says it in a chat: the user, before the input, or the system message."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.instruction.strip():
            raise ValueError('instruction is needed: what is to be done, as "Translate into German:"')

    @property
    def said_first(self) -> tuple[str, str]:
        """(who says what is to be done, and what)."""
        return self.role, self.instruction
