"""What a run asks of the way its model is spread over processes; a further way is one more file beside this one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from llmkit.training.folder.run_folder import Checkpoint
from llmkit.training.learner import Learner


class Spread(Protocol):
    """How a learner's weights, gradients and optimizer state lie on the processes of a run.

    Whoever asks has whole tensors in mind; where each process holds a part, the way gathers and scatters them.
    """

    def prepare(self, learner: Learner, optimizer: Any) -> tuple[nn.Module, Any]:
        """(the module whose forward is the learner's, the optimizer), ready for steps on this process's device."""

    def apart(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """While the block runs, gradients stay with their process: of all micro-batches of a step but the last."""

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> Tensor | float:
        """Scale gradients down to the global norm `most`; the norm before that, over all processes, not read yet."""

    def judging(self) -> AbstractContextManager[Any]:
        """What evaluations run in: no graph, in the numbers of the recipe."""

    def judged(self, learner: Learner) -> None:
        """Put the learner back as it trains, after an evaluation."""

    def copies(self, learner: Learner) -> dict[str, Tensor]:
        """What trains, by name, as it is now: kept for the best evaluation."""

    def put_back(self, learner: Learner, copies: Mapping[str, Tensor]) -> None:
        """Bring such copies back into the learner."""

    def not_finite(self, learner: Learner) -> str | None:
        """The first parameter that trains and isn't finite any more, on any process."""

    def save(self, folder: Path, learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None) -> None:
        """Write what trains, the optimizer's state and the best weights into a checkpoint's folder."""

    def load(self, start: Checkpoint, learner: Learner, optimizer: Any) -> dict[str, Tensor] | None:
        """Bring a checkpoint's weights and optimizer state back, and return its best weights, where it has some.

        CheckpointError where they aren't of this learner and optimizer.
        """

    def whole(self, learner: Learner) -> AbstractContextManager[Any]:
        """While the block runs, the main process has all weights whole, to write model/ from."""
