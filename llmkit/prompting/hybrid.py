"""An instruction and examples: what is to be done is said, then shown."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from llmkit.prompting.prefix import Prefix
from llmkit.prompting.shared.examples import FewShot
from llmkit.recipe.registry import OPTIONS


@dataclass(config=OPTIONS)
class Hybrid(Prefix, FewShot):
    """`prefix` and `example` together: Brown et al. (2020) have a line that says the task above their examples too."""
