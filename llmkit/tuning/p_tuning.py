"""P-tuning: a soft prompt comes out of a small network while it trains (Liu et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.recipe.registry import OPTIONS
from llmkit.tuning.prompt import Prompt

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(config=OPTIONS)
class PTuning(Prompt):
    """As prompt; what is saved is what came out of the network, so that nothing is slower afterwards.

    The network moves the prompt further than its own rate says, so the rate is lower than that of prompt.
    """

    learning_rate = 1e-2

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The network: linear layers for each virtual token, or an LSTM that reads all of them from both sides."""
    encoder_hidden_size: Annotated[int, Field(ge=1)] | None = None
    """Its hidden size; by default the width of the embeddings."""
    encoder_num_layers: Annotated[int, Field(ge=1)] = 2
    """Layers of the LSTM."""
    encoder_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout between these."""

    def describe(self) -> str:
        """`20 virtual tokens, from vocabulary, out of an MLP`."""
        return f"{super().describe()}, out of an {self.encoder_reparameterization_type}"

    def rows(self, start: Tensor) -> nn.Module:
        """What trains: the network, and the rows that go in."""
        from llmkit.tuning.shared.soft_prompt import PromptEncoder

        hidden = self.encoder_hidden_size or start.shape[1]
        return PromptEncoder(start, self.encoder_reparameterization_type, hidden, self.encoder_num_layers,
                       self.encoder_dropout)
