"""A checkpoint in parts: each process writes its own, in safetensors, and any number of processes reads them again.

    shard-00001-model-00001-of-00002.safetensors   the first process's part of the first tensors, some 64 MB
    shard-00001-model-00002-of-00002.safetensors   and of the others
    optimizer.json                                 what the optimizer keeps beside tensors

The files are torch.distributed.checkpoint's, by its safetensors storage: its own form holds a pickle.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.system.devices import copied, here
from llmkit.system.errors import CheckpointError, PlaceError
from llmkit.training.folder.run_folder import Checkpoint
from llmkit.training.learner import Learner

KEPT = "optimizer.json"
"""Options of the optimizer's groups, and which of its tensors were numbers."""
FILE = 2**26
"""About as many bytes go to a file."""
TRAINED, MOMENTS, BEST = "trained", "optimizer", "best"
"""What names of tensors begin with: `trained/model.lm_head.weight`, `optimizer/exp_avg/model.lm_head.weight`."""


@dataclass(frozen=True)
class Parts:
    """What a process writes into a checkpoint."""

    tensors: Mapping[str, Tensor]
    """By name; of those in parts, the process has its part."""
    kept: Mapping[str, Any]
    """Options of the optimizer's groups, and which of its tensors were numbers."""

    def copied(self) -> Parts:
        """All of it as it is now, in main memory."""
        return Parts(copied(self.tensors), copied(self.kept))


def content(learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None) -> Parts:
    """What this process has of weights, optimizer and best weights, as it is: steps change it."""
    tensors: dict[str, Tensor] = {f"{TRAINED}/{name}": tensor.detach() for name, tensor in learner.trained.items()}
    numbers = dict[str, str]()
    for name, value in moments(learner, optimizer):
        if not isinstance(value, Tensor):
            numbers[name], value = type(value).__name__, torch.tensor(value, dtype=torch.float64)
        tensors[name] = value
    tensors |= {f"{BEST}/{name}": value for name, value in (best or {}).items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return Parts(tensors, {"groups": groups, "numbers": numbers})


def write(folder: Path, parts: Parts, main: bool, alone: bool = False, group: Any = None) -> None:
    """Write this process's parts; all processes of a run do so together. PlaceError where one of them can't.

    group   the processes, where it isn't those of the steps, as in a thread
    alone   whether there is one process
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    if main:
        (folder / KEPT).write_text(json.dumps(parts.kept), encoding="utf-8")
    try:
        with silent() if alone else nullcontext():
            writer = HuggingFaceStorageWriter(str(folder), files_of(parts.tensors), save_distributed=True)
            save(dict(parts.tensors), storage_writer=writer, process_group=group, no_dist=alone)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        if isinstance(reason, OSError):
            raise PlaceError(f"{folder}: {reason.strerror}. What was saved before is whole.") from error
        raise


@contextmanager
def silent() -> Iterator[None]:
    """While the block runs, torch doesn't warn that one process works alone; not for a thread beside others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def files_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Which file of its process a tensor goes to, counted from 1: one is made in memory before it is written."""
    filled, which = 0, dict[str, int]()
    for name, tensor in tensors.items():
        filled += here(tensor).nbytes
        which[name] = 1 + filled // FILE
    return which


def moments(learner: Learner, optimizer: Any) -> Iterator[tuple[str, Any]]:
    """What the optimizer keeps: (`optimizer/exp_avg/model.lm_head.weight`, its tensor or number)."""
    names = {id(parameter): name for name, parameter in learner.trained.items()}
    for parameter, kept in optimizer.state.items():
        for key, value in kept.items():
            yield f"{MOMENTS}/{key}/{names[id(parameter)]}", value


def is_sharded(start: Checkpoint) -> bool:
    """Whether a checkpoint is in parts."""
    return start.file(KEPT) is not None


def read(start: Checkpoint, learner: Learner, optimizer: Any, alone: bool = False) -> dict[str, Tensor] | None:
    """Bring back weights and optimizer, each process its own parts of them; return the best weights, if there are some.

    CheckpointError where they aren't of this learner and optimizer.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    place = start.file(KEPT)
    assert place is not None
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        reader = HuggingFaceStorageReader(str(start.folder))
        there = reader.read_metadata().state_dict_metadata
        wanted = {name: like(name, about, learner, start) for name, about in there.items()}
        _check(start, there, learner)
        with silent():
            load(wanted, storage_reader=HuggingFaceStorageReader(str(start.folder)), no_dist=alone)
        _restore(wanted, kept, learner, optimizer)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the library makes of a stranger's file
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{start.folder}: its parts aren't of this model and optimizer: {reason}") from error
    best = {name.partition("/")[2]: value for name, value in wanted.items() if name.startswith(f"{BEST}/")}
    return best or None


def like(name: str, about: Any, learner: Learner, start: Checkpoint) -> Tensor:
    """Room for a tensor of a checkpoint, in parts where its parameter is."""
    kind, _, rest = name.partition("/")
    parameter = learner.trained.get(rest.partition("/")[2] if kind == MOMENTS else rest)
    if parameter is None:
        raise CheckpointError(f"{start.folder}: its weights aren't those of this recipe's model.")
    kept: torch.dtype = about.properties.dtype
    if tuple(about.size) == tuple(parameter.shape):
        return torch.zeros_like(parameter, dtype=kept, requires_grad=False)
    return torch.zeros(tuple(about.size), dtype=kept)


def _check(start: Checkpoint, there: Mapping[str, Any], learner: Learner) -> None:
    saved = {name.partition("/")[2]: tuple(about.size) for name, about in there.items()
             if name.startswith(f"{TRAINED}/")}
    if saved != {name: tuple(parameter.shape) for name, parameter in learner.trained.items()}:
        raise CheckpointError(f"{start.folder}: its weights aren't those of this recipe's model.")


def _restore(wanted: Mapping[str, Tensor], kept: Mapping[str, Any], learner: Learner, optimizer: Any) -> None:
    """Weights into the parameters, moments and options into the optimizer."""
    parameters = learner.trained
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(wanted[f"{TRAINED}/{name}"])
    state = dict[nn.Parameter, dict[str, Any]]()
    for name, value in wanted.items():
        kind, _, rest = name.partition("/")
        if kind != MOMENTS:
            continue
        key, _, of = rest.partition("/")
        number: Any = value
        if name in kept["numbers"]:
            number = {"int": int, "bool": bool}.get(kept["numbers"][name], float)(value.item())
        state.setdefault(parameters[of], {})[key] = number
    numbers = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    groups = [{**{key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()},
               "params": [numbers[id(p)] for p in group["params"]]}
              for saved, group in zip(kept["groups"], optimizer.param_groups, strict=True)]
    optimizer.load_state_dict({"state": {numbers[id(p)]: one for p, one in state.items()}, "param_groups": groups})
