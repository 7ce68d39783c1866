"""Examples before the input, each with its output: the model goes on as they do."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from llmkit.prompting.shared.examples import FewShot, InQuestions
from llmkit.recipe.registry import OPTIONS


@dataclass(config=OPTIONS)
class Example(InQuestions, FewShot):
    """In-context learning (Brown et al. 2020): what is to be done is shown, not said, and no weight changes.

    In a chat, each example is a turn of the user and one of the assistant. Examples that don't fit into the model's
    context are left out, the first ones first.
    """
