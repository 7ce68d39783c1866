"""What a run asks of the way its model is spread over processes; a further way is one more file beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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

    @property
    def name(self) -> str:
        """What a run's summary calls it."""

    @property
    def even(self) -> bool:
        """Whether processes compute together even without a gradient: each must then call the learner as often."""

    def prepare(self, learner: Learner, make: Callable[[], Any]) -> tuple[nn.Module, Any]:
        """(the module whose forward is the learner's, the optimizer), ready for steps on this process's device.

        `make` makes an optimizer of what trains, as it lies then.
        """

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

    def save(self, folder: Path | None, learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None) -> None:
        """Write what trains, the optimizer's state and the best weights into a checkpoint's folder.

        Every process calls it; the folder is told to the main process alone.
        """

    def copied(
        self, learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None,
    ) -> Callable[[Path | None], None]:
        """A copy of all that `save` writes, in main memory, and what writes it: in another thread, while steps go on.

        Every process calls both; the folder is told to the main process alone.
        """

    def load(self, start: Checkpoint, learner: Learner, optimizer: Any) -> dict[str, Tensor] | None:
        """Bring a checkpoint's weights and optimizer state back, and return its best weights, where it has some.

        CheckpointError where they aren't of this learner and optimizer.
        """

    def whole(self, learner: Learner) -> AbstractContextManager[Any]:
        """While the block runs, the main process has all weights whole, to write model/ from."""

    def alone(self, learner: Learner) -> AbstractContextManager[Any]:
        """While the block runs, each process can compute without the others, as often as it likes."""
