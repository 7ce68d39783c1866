"""Every process holds the whole model, and gradients are averaged: one process alone, or DDP by accelerate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmkit.system.devices import copied
from llmkit.system.errors import CheckpointError
from llmkit.training.folder.run_folder import Checkpoint
from llmkit.training.learner import Learner
from llmkit.training.spread import shards

TRAINED, OPTIMIZER, BEST = "trained.safetensors", "optimizer.pt", "best.safetensors"
SCALER = "scaler.json"
"""What the loss is scaled by in fp16, and since how many steps that went well."""


class DataParallel:
    """The whole model on every process: what is asked of it is in `spread.base.Spread`."""

    even: bool = False

    @property
    def name(self) -> str:
        """`ddp`, or `one process`."""
        return "ddp" if self.accelerator.num_processes > 1 else "one process"

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def prepare(self, learner: Learner, make: Callable[[], Any]) -> tuple[nn.Module, Any]:
        """The learner under DDP where there are several processes, and accelerate's optimizer."""
        wrapped, prepared = self.accelerator.prepare(learner, make())
        return wrapped, prepared

    def apart(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """DDP's no_sync."""
        context: AbstractContextManager[Any] = self.accelerator.no_sync(wrapped)
        return context

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> Tensor:
        """Every process has the whole gradient: each clips its own copy."""
        norm: Tensor = self.accelerator.clip_grad_norm_(parameters, most)
        return norm

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Inference mode, and autocast as in training."""
        with torch.inference_mode(), self.accelerator.autocast():
            yield

    def judged(self, learner: Learner) -> None:
        """Nothing was changed."""

    def copies(self, learner: Learner) -> dict[str, Tensor]:
        """A clone of each parameter that trains, or of the part of it that is here."""
        return {name: parameter.detach().clone() for name, parameter in learner.trained.items()}

    def put_back(self, learner: Learner, copies: Mapping[str, Tensor]) -> None:
        """Copy them into the parameters, or into their parts."""
        with torch.no_grad():
            for name, parameter in learner.trained.items():
                parameter.copy_(copies[name])

    def not_finite(self, learner: Learner) -> str | None:
        """All processes hold the same numbers: each looks at its own."""
        return next((name for name, parameter in learner.trained.items() if not bool(parameter.isfinite().all())), None)

    def save(self, folder: Path | None, learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None) -> None:
        """trained.safetensors, optimizer.pt, best.safetensors, in fp16 scaler.json: by the main process."""
        if folder is not None:
            write(folder, self.content(learner, optimizer), best)

    def copied(
        self, learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None,
    ) -> Callable[[Path | None], None]:
        """Copies by the main process; the best weights are copies already, which nobody changes."""
        kept = copied(self.content(learner, optimizer)) if self.accelerator.is_main_process else {}
        return lambda folder: None if folder is None else write(folder, kept, best)

    def content(self, learner: Learner, optimizer: Any) -> dict[str, Any]:
        """What a checkpoint has, by its files."""
        trained = {name: parameter.detach() for name, parameter in learner.trained.items()}
        scaler = self.accelerator.scaler
        return {TRAINED: trained, OPTIMIZER: optimizer.state_dict(),
                **({} if scaler is None else {SCALER: scaler.state_dict()})}

    def parted(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        """What this process keeps of a tensor that belongs to a parameter: all of it."""
        return value

    def load(self, start: Checkpoint, learner: Learner, optimizer: Any) -> dict[str, Tensor] | None:
        """Each process reads all of it, and keeps what `parted` makes of a tensor."""
        if shards.is_sharded(start):
            return shards.read(start, learner, getattr(optimizer, "optimizer", optimizer), alone=True)
        weights, moments, best = start.file(TRAINED), start.file(OPTIMIZER), start.file(BEST)
        if weights is None or moments is None:
            raise CheckpointError(f"{start.folder}: its manifest names no {TRAINED} and {OPTIMIZER}.")
        saved, wanted = tensors(weights), learner.trained
        if saved.keys() != wanted.keys() or any(saved[name].shape != wanted[name].shape for name in saved):
            raise CheckpointError(f"{start.folder}: its weights aren't those of this recipe's model.")
        self.put_back(learner, {name: self.parted(saved[name], parameter) for name, parameter in wanted.items()})
        try:
            state = torch.load(moments, weights_only=True, map_location="cpu")
            if "state" in state:  # an optimizer of several has theirs, and is never in parts
                numbered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
                state["state"] = {
                    i: {key: self.parted(value, numbered[i]) if isinstance(value, Tensor) else value
                        for key, value in kept.items()} for i, kept in state["state"].items()}
            optimizer.load_state_dict(state)
        except (UnpicklingError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{moments}: isn't the state of this optimizer: {reason}") from error
        scaler, scale = self.accelerator.scaler, start.file(SCALER)
        if scaler is not None and scale is not None:  # one of before has none: the scale is found anew
            try:
                scaler.load_state_dict(json.loads(scale.read_text(encoding="utf-8")))
            except (ValueError, LookupError, TypeError, RuntimeError) as error:
                raise CheckpointError(f"{scale}: isn't the state of a gradient scaler: {error}") from error
        if best is None:
            return None
        return {name: self.parted(value, wanted[name]) for name, value in tensors(best).items()}

    def whole(self, learner: Learner) -> AbstractContextManager[Any]:
        """They are."""
        return nullcontext()

    def alone(self, learner: Learner) -> AbstractContextManager[Any]:
        """They can."""
        return nullcontext()


def write(folder: Path, content: Mapping[str, Any], best: Mapping[str, Tensor] | None) -> None:
    """Write the files of a checkpoint that is whole."""
    save_file({name: value.contiguous() for name, value in content[TRAINED].items()}, folder / TRAINED)
    with (folder / OPTIMIZER).open("wb") as file:  # by a path, torch doesn't say that the disk is full
        torch.save(content[OPTIMIZER], file)
    if SCALER in content:
        (folder / SCALER).write_text(json.dumps(content[SCALER]), encoding="utf-8")
    if best is not None:
        save_file({name: value.contiguous() for name, value in best.items()}, folder / BEST)


def tensors(path: Path) -> dict[str, Tensor]:
    """What a checkpoint's safetensors hold; CheckpointError where it is something else."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: holds no tensors: {' '.join(str(error).split())[:200]}") from error
