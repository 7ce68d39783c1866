"""Each process holds a part of every tensor: torch's FSDP2 (Zhao et al. 2023, "PyTorch FSDP").

A layer's weights are gathered before it computes and parted again after it; embeddings, head and whatever else stands
beside the layers are one more unit, gathered for the whole forward pass. Numbers are added in fp32, as under DDP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from llmkit.backbones.base import stacks_of
from llmkit.recipe import Distributed
from llmkit.system.devices import gathered, here
from llmkit.system.machine import give_back_what_is_freed
from llmkit.training.folder.run_folder import Checkpoint
from llmkit.training.learner import Learner
from llmkit.training.spread import shards
from llmkit.training.spread.ddp import DataParallel
from llmkit.training.spread.processes import shared


class FullyShard(DataParallel):
    """A part of the model on every process: what is asked of it is in `spread.base.Spread`."""

    even = True

    def __init__(self, accelerator: Accelerator, plan: Distributed, patience: float) -> None:
        """`patience`: seconds that processes wait for each other while they write."""
        super().__init__(accelerator)
        self.plan, self.patience = plan, patience
        give_back_what_is_freed()  # before the model is built, which is whole then
        self._writers: Any = None

    @property
    def name(self) -> str:
        """As the recipe calls it."""
        return "fsdp"

    def prepare(self, learner: Learner, make: Callable[[], Any]) -> tuple[nn.Module, Any]:
        """The learner in parts, layer by layer, and an optimizer of the parts."""
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        # accelerate moves it to the device and lets it compute in the recipe's numbers; it wraps nothing
        wrapped: nn.Module = self.accelerator.prepare_model(learner, evaluation_mode=True)
        offload = self.plan.cpu_offload and self.accelerator.device.type != "cpu"
        options: dict[str, Any] = {"mesh": self.mesh(),
                                   "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy()}
        for network in [learner.tuned, *learner.objective.others(learner.model).values()]:
            for stack in stacks_of(network, learner.family):
                for name in stack:
                    fully_shard(network.get_submodule(name), reshard_after_forward=self.plan.reshard_after_forward,
                                **options)
        fully_shard(learner, reshard_after_forward=False, **options)
        return wrapped, self.accelerator.prepare(make())

    def mesh(self) -> Any:
        """The processes: in a row, or groups of which each has the whole model."""
        from torch.distributed.device_mesh import init_device_mesh

        kind, world, copies = self.accelerator.device.type, self.accelerator.num_processes, self.plan.dp_replicate_size
        if copies == 1:
            return init_device_mesh(kind, (world,), mesh_dim_names=("dp_shard",))
        return init_device_mesh(kind, (copies, world // copies), mesh_dim_names=("dp_replicate", "dp_shard"))

    def apart(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Gradients are added in parts after each micro-batch: to wait would keep them whole."""
        return nullcontext()

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> Tensor:
        """The norm of all parts together."""
        norm = self.accelerator.clip_grad_norm_(parameters, most)
        return gathered(norm)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """No graph, and autocast as in training; in inference mode, parts can't be gathered."""
        with torch.no_grad(), self.accelerator.autocast():
            yield

    def judged(self, learner: Learner) -> None:
        """What lies beside the layers stays gathered after a forward pass without a backward one: part it again."""
        for unit in units(learner):
            unit.reshard()

    def not_finite(self, learner: Learner) -> str | None:
        """Each process looks at its parts, and tells the others."""
        wrong = torch.stack([~here(parameter).isfinite().all() for parameter in learner.trained.values()]).float()
        found = self.accelerator.reduce(wrong.to(self.accelerator.device), "sum").tolist()
        return next((name for name, count in zip(learner.trained, found, strict=True) if count), None)

    def save(self, folder: Path | None, learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None) -> None:
        """A file of safetensors a process, all written at once."""
        place = shared(self.accelerator, lambda: folder)
        shards.write(place, shards.content(learner, optimizer.optimizer, best), self.accelerator.is_main_process)

    def copied(
        self, learner: Learner, optimizer: Any, best: Mapping[str, Tensor] | None,
    ) -> Callable[[Path | None], None]:
        """Each process copies its parts; they are written together, by words apart from those of the steps."""
        kept, group = shards.content(learner, optimizer.optimizer, best).copied(), self.writers()
        main = self.accelerator.is_main_process

        def write(folder: Path | None) -> None:
            place = [folder]
            torch.distributed.broadcast_object_list(place, group=group, device=torch.device("cpu"))
            assert place[0] is not None  # the main process knows it
            shards.write(place[0], kept, main, group=group)

        return write

    def writers(self) -> Any:
        """All processes once more, for what isn't a step: of the steps' own, words would come in any order."""
        if self._writers is None:
            self._writers = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=self.patience))
        return self._writers

    def load(self, start: Checkpoint, learner: Learner, optimizer: Any) -> dict[str, Tensor] | None:
        """Each process reads its parts, be the checkpoint whole or in the parts of another number of processes."""
        if shards.is_sharded(start):
            return shards.read(start, learner, optimizer.optimizer)
        return super().load(start, learner, optimizer)

    def parted(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        """The part of a whole tensor that its parameter has here; a tensor of another shape stays whole."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements,
                                 src_data_rank=None)

    @contextmanager
    def whole(self, learner: Learner) -> Iterator[None]:
        """Gather one tensor after the other; the main process keeps them, in its main memory."""
        parts: list[tuple[nn.Module, str, nn.Parameter]] = []
        kept = dict[int, nn.Parameter]()
        for module in learner.modules():
            for name, part in module.named_parameters(recurse=False, remove_duplicate=False):
                parts.append((module, name, part))
                if id(part) not in kept:
                    full = gathered(part.detach())
                    kept[id(part)] = (nn.Parameter(full.cpu(), requires_grad=part.requires_grad)
                                      if self.accelerator.is_main_process else part)
        try:
            for module, name, part in parts:
                setattr(module, name, kept[id(part)])
            yield
        finally:
            for module, name, part in parts:
                setattr(module, name, part)

    @contextmanager
    def alone(self, learner: Learner) -> Iterator[None]:
        """All weights on every process until the end of the block."""
        for unit in units(learner):
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for unit in units(learner):
                unit.reshard()
                unit.set_reshard_after_forward(unit is not learner and self.plan.reshard_after_forward, recurse=False)


def units(learner: Learner) -> list[Any]:
    """What is gathered at once: each layer, and the rest."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in learner.modules() if isinstance(module, FSDPModule)]

