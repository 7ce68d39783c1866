"""Bytes that a run holds on each GPU, by the way in which its model is spread over them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch

from llmkit.backbones.kernels.chunked_loss import at_once
from llmkit.planning.clusters.anatomy import Anatomy
from llmkit.planning.clusters.gpus import Cluster

Strategy = Literal["one", "ddp", "fsdp", "hybrid"]
"""one GPU · all of it on each (DDP) · shared by all (FSDP's full shard, ZeRO-3) · shared within a machine (HSDP)."""
STRATEGIES: tuple[Strategy, ...] = ("one", "ddp", "fsdp", "hybrid")
WHOLE: tuple[Strategy, ...] = ("one", "ddp")
"""Those where each GPU holds all of the model."""
FULL = 4
"""Bytes of a number of weights, gradients and optimizer: llmkit holds all three in fp32."""
GATHERED = 2
"""Layers whose weights are whole at once: the one that is computed and the next, which is on its way."""
CONTEXT = 1.0e9
"""Bytes of CUDA's context, of NCCL's and of cuBLAS's buffers: 0.5 to 1.5 GB, whatever the model is."""
ROOM = 0.9
"""The share of a GPU's memory that may be planned with: PyTorch's allocator leaves gaps."""


@dataclass(frozen=True)
class Held:
    """Bytes on a GPU."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    """Weights in the numbers of the forward pass, whole: autocast's copies, or what FSDP has gathered."""
    activations: float
    logits: float
    context: float = CONTEXT

    @property
    def total(self) -> float:
        """All of it at once: what a step needs at its peak, at most."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Demand:
    """What of a recipe decides how much is held."""

    rows: int
    """Of a micro-batch."""
    length: int
    """Tokens of a row."""
    states: float
    """Numbers of 32 bits that the optimizer keeps for each one that trains."""
    bytes: int = 2
    """Of a number of the forward pass: 2 in bf16 and fp16, 4 in fp32."""
    recomputes: bool = False
    """Whether activations are computed again (gradient_checkpointing)."""
    gathers: int = FULL
    """Bytes of a number of a weight on its way to those that gather it: llmkit sends fp32, others cast it before."""


def shares(strategy: Strategy, cluster: Cluster) -> int:
    """Over how many GPUs a model's states are cut."""
    return {"one": 1, "ddp": 1, "fsdp": cluster.count, "hybrid": cluster.per_machine}[strategy]


def held(model: Anatomy, demand: Demand, strategy: Strategy, cluster: Cluster) -> Held:
    """Bytes that a GPU holds at the peak of a step.

    States (Rajbhandari et al. 2020, "ZeRO", §3.1 and figure 1): with N numbers, weights, gradients and an optimizer of
    K states take (4 + 4 + 4 K) N bytes, 16 N with Adam as in their mixed precision; cut over n GPUs 16 N / n.
    """
    parts = shares(strategy, cluster)
    return Held(
        weights=(model.held + FULL * model.trained) / parts, gradients=FULL * model.trained / parts,
        optimizer=FULL * demand.states * model.trained / parts, copies=copies(model, demand, strategy),
        activations=demand.rows * activations(model, demand), logits=logits(model, demand))


def copies(model: Anatomy, demand: Demand, strategy: Strategy) -> float:
    """Bytes of weights in the numbers of the forward pass.

    One process and DDP compute under autocast, which keeps a 16-bit copy of each weight that is multiplied until the
    backward pass is over (PyTorch, "Automatic Mixed Precision", weight cache). FSDP gathers layer by layer, the next
    one while a layer is computed, and holds what lies outside of the layers all the time (PyTorch, `fully_shard`,
    reshard_after_forward); in the backward pass a layer's whole gradient is there too, in these numbers and, to be
    summed, in fp32.
    """
    if strategy in WHOLE:
        return float(demand.bytes * model.multiplied) if demand.bytes < FULL else 0.0
    share = model.trained / model.parameters
    gathered = demand.gathers * (GATHERED * model.layer + model.root)
    cast = demand.bytes * (model.layer + model.root) if demand.bytes < demand.gathers else 0
    return gathered + cast + (demand.bytes + FULL) * share * model.layer


def activations(model: Anatomy, demand: Demand) -> float:
    """Bytes that a row keeps for the backward pass.

    Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", eq. 1 and 2: a layer of
    GPT keeps 34 bytes a token and unit of width in 16 bits, and 5 a s / h more where attention keeps its weights. Of
    the 34, 32 are what goes into and comes out of its linear layers (16 widths); here these are counted in the model,
    so that gated and grouped layers are right. What is normalised stays in fp32 under autocast: a norm keeps what comes
    in and what it makes of it. Computed again (§5), a layer keeps what comes in, in fp32, and one layer at a time all
    of it.
    """
    weights = (2 * demand.bytes + FULL) * model.scores * demand.length
    layer = demand.length * (demand.bytes * model.linear + FULL * model.normed + weights)
    if not demand.recomputes:
        return float(model.layers * layer)
    return float(model.layers * FULL * model.width * demand.length + layer)


def logits(model: Anatomy, demand: Demand) -> float:
    """Bytes of what a head over words makes: all logits and their softmax, with gradients, or a chunk of them.

    In chunks (`chunked_loss`), as many logits are there at once as the loss makes on a GPU, in fp32 with their softmax
    too, and the table's gradient once more.
    """
    if not model.vocabulary:
        return 0.0
    tokens = demand.rows * demand.length
    if model.logits:
        return tokens * model.logits * (2 * demand.bytes + 2 * FULL)
    held, full = (min(count, tokens * model.vocabulary) for count in at_once(torch.device("cuda")))
    return float(demand.bytes * held + 2 * FULL * full + FULL * model.vocabulary * model.width)
