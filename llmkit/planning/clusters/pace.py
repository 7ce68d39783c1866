"""How long a step takes on GPUs that aren't here: operations, traffic, and what of it hides behind computing."""

from __future__ import annotations

from dataclasses import dataclass

from llmkit.planning.clusters.anatomy import Anatomy
from llmkit.planning.clusters.gpus import Cluster, Gpu
from llmkit.planning.clusters.memory import FULL, Demand, Strategy, shares

MFU = 0.40
"""The utilisation that is assumed: Llama 3 405B had 0.38 to 0.43 on 8,192 and 16,384 H100s (Dubey et al. 2024, §3.3.2
and table 4); llm-foundry's MPT of 0.76 to 13 B parameters 0.35 to 0.46 on 8 to 64 H100s without recomputation."""
RECOMPUTED = 0.75
"""What is left of it where activations are computed again: of four passes three count (Korthikanti et al. 2022)."""
TF32, PLAIN = 1 / 2, 1 / 16
"""Rates of products of fp32 matrices against 16 bits, in TF32 and without: 156 and 19.5 of 312 on an A100."""
OLD = 1 / 8
"""The same on GPUs without TF32: 15.7 of 125 on a V100."""


def operations(model: Anatomy, length: float) -> float:
    """Floating-point operations of a token in a step, forward and backward.

    6 N (Kaplan et al. 2020, §2.1: a product and a sum a weight forward, twice that backward) and 12 L H Q T for
    attention over a row of T tokens (Chowdhery et al. 2022, "PaLM", appendix B), whole squares though half of it is
    masked, as everybody counts. Weights that don't train need no gradient of their own: 4 N + 2 N of those that do.
    """
    active = model.at_work
    products = 4.0 * active + 2.0 * min(model.trained, active)
    return products + 12.0 * (model.layers / model.stacks) * model.attention * length


def mfu(model: Anatomy, length: float, tokens_per_second: float, flops: float) -> float:
    """The utilisation, from 0 to 1, at so many tokens a second and GPU (PaLM, appendix B): theirs over its own rate."""
    return operations(model, length) * tokens_per_second / flops


def assumed(recomputes: bool) -> float:
    """The utilisation where a person says none: lower where a part of the work isn't counted."""
    return MFU * RECOMPUTED if recomputes else MFU


def rate(gpu: Gpu, precision: str, tf32: bool) -> float:
    """Operations a second of a GPU in the numbers of a run."""
    if precision != "fp32":
        return gpu.flops
    return gpu.flops * (OLD if gpu.numbers == "fp16" else TF32 if tf32 else PLAIN)


@dataclass(frozen=True)
class Traffic:
    """What a GPU sends to others in a step."""

    bytes: float
    seconds: float
    """That it takes alone."""
    exposed: float
    """Seconds of these that a step waits for."""

    @property
    def hides(self) -> bool:
        """Whether all of it goes on while the GPU computes anyway."""
        return self.exposed <= 0


@dataclass(frozen=True)
class Pace:
    """A step, as it is to be expected."""

    tokens: float
    """Of all GPUs together, without padding."""
    computing: float
    """Seconds."""
    bound: str
    """What decides them: `compute`, or `memory` where a GPU waits for its own memory."""
    traffic: Traffic

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.computing + self.traffic.exposed

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs together."""
        return self.tokens / self.seconds


def pace(
    model: Anatomy, demand: Demand, strategy: Strategy, cluster: Cluster, tokens: float, accumulation: int,
    length: float, utilisation: float, flops: float,
) -> Pace:
    """A step of so many tokens, in `accumulation` micro-batches a GPU, rows `length` tokens long on average.

    Computing takes operations / (rate x utilisation), or longer where a GPU's memory is slower than that (the roofline
    of Williams et al. 2009): weights are read twice a micro-batch, and the optimizer reads and writes all that it has.
    """
    each = tokens if strategy == "one" else tokens / cluster.count
    computing = each * operations(model, length) / (flops * utilisation)
    parts = shares(strategy, cluster)
    moved = accumulation * 2 * demand.bytes * (model.parameters - model.idle) \
        + FULL * (3 + 2 * demand.states) * model.trained / parts
    waiting = moved / cluster.gpu.memory_bandwidth if cluster.gpu.memory_bandwidth else 0.0
    longest = max(computing, waiting)
    return Pace(tokens, longest, "compute" if computing >= waiting else "memory",
                traffic(model, demand, strategy, cluster, accumulation, longest))


def traffic(
    model: Anatomy, demand: Demand, strategy: Strategy, cluster: Cluster, accumulation: int, computing: float,
) -> Traffic:
    """Bytes that a GPU sends a step, and what of their time isn't hidden behind `computing` seconds.

    DDP adds gradients up once a step: 2 (n - 1) / n of their bytes in a ring (Patarasuk & Yuan 2009), while the last
    micro-batch's backward pass runs. Full shard gathers the weights in each forward and backward pass and scatters the
    gradients, each (n - 1) / n: 3 N numbers a micro-batch against DDP's 2 N (Rajbhandari et al. 2020, §7.2), weights in
    what they are gathered in, gradients in fp32. Hybrid does that within a machine, and adds each GPU's part of the
    gradients up across machines. Of a micro-batch's time a third is forward, or a quarter where it computes again.
    """
    micro = computing / accumulation
    forward = micro * (1 / 4 if demand.recomputes else 1 / 3)
    backward = micro - forward
    if strategy == "one" or cluster.count == 1:
        return Traffic(0.0, 0.0, 0.0)
    gradients = float(FULL * model.trained)
    if strategy == "ddp":
        sent = 2 * around(cluster.count) * gradients
        seconds = sent / cluster.between
        return Traffic(sent, seconds, max(0.0, seconds - backward))
    whole = demand.gathers * model.parameters
    if strategy == "fsdp":
        gather, scatter = around(cluster.count) * whole, around(cluster.count) * gradients
        gathering, scattering, across, crossing = gather / cluster.between, scatter / cluster.between, 0.0, 0.0
    else:
        gather, scatter = around(cluster.per_machine) * whole, around(cluster.per_machine) * gradients
        gathering, scattering = gather / cluster.gpu.link, scatter / cluster.gpu.link
        across = 2 * around(cluster.machines) * gradients / cluster.per_machine
        crossing = across / cluster.gpu.network
    exposed = max(0.0, gathering - forward) + max(0.0, gathering + scattering + crossing - backward)
    return Traffic(accumulation * (2 * gather + scatter + across),
                   accumulation * (2 * gathering + scattering + crossing), accumulation * exposed)


def around(count: int) -> float:
    """The share of something that each of so many GPUs sends on, once around a ring: (n - 1) / n."""
    return (count - 1) / count
