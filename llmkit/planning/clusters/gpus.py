"""GPUs that a run can be planned for: what each has by its maker's data sheet, and what a person says of others."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from llmkit.system.errors import RequestError, nearest, plain

PER_MACHINE = 8
"""GPUs of a machine where nothing is said: NVIDIA's DGX and HGX, AMD's platforms."""
NETWORK = 12.5e9
"""Bytes a second between machines that nothing is known of: a network card of 100 Gb/s a GPU."""
MOST = 1_000_000
"""GPUs of the largest plan."""
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18,
         "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
"""What stands before `B`, `FLOPS` and the like, in small letters."""


@dataclass(frozen=True)
class Gpu:
    """What a plan has to know of a GPU. Rates are of one direction: of NVLink's 900 GB/s, 450 go out."""

    name: str
    memory: float
    """Bytes, as its maker counts them: a GB is 10^9."""
    flops: float
    """Operations a second of its matrix products in 16 bits, dense: half of what data sheets say with sparsity."""
    memory_bandwidth: float
    """Bytes a second between its memory and its processors."""
    link: float
    """Bytes a second to the other GPUs of its machine: NVLink, Infinity Fabric, or PCIe."""
    network: float
    """Bytes a second to other machines: its share of their network cards."""
    source: str
    """Where these figures stand."""
    numbers: Literal["bf16", "fp16"] = "bf16"
    """The 16 bits that it multiplies: bf16 from Ampere on."""
    per_machine: int = PER_MACHINE
    """GPUs that a machine usually has."""


DGX_A100, DGX_H100, PCIE = 25e9, 50e9, NETWORK
"""Bytes a second of a GPU's own network card: 200 Gb/s in NVIDIA's DGX A100, 400 Gb/s in DGX H100 and later."""
GPUS = (
    Gpu("A100", 80e9, 312e12, 2039e9, 300e9, DGX_A100, "NVIDIA A100 datasheet: SXM, 80 GB"),
    Gpu("A100-40GB", 40e9, 312e12, 1555e9, 300e9, DGX_A100, "NVIDIA A100 datasheet: SXM, 40 GB"),
    Gpu("A100-PCIe", 80e9, 312e12, 1935e9, 32e9, PCIE, "NVIDIA A100 datasheet: PCIe, 80 GB"),
    Gpu("A800", 80e9, 312e12, 2039e9, 200e9, DGX_A100, "NVIDIA A800 datasheet: SXM, NVLink of 400 GB/s"),
    Gpu("H100", 80e9, 989.4e12, 3350e9, 450e9, DGX_H100, "NVIDIA H100 datasheet: SXM"),
    Gpu("H100-PCIe", 80e9, 756e12, 2000e9, 64e9, PCIE, "NVIDIA H100 datasheet: PCIe"),
    Gpu("H200", 141e9, 989.4e12, 4800e9, 450e9, DGX_H100, "NVIDIA H200 datasheet: SXM"),
    Gpu("H800", 80e9, 989.4e12, 3350e9, 200e9, DGX_H100, "NVIDIA H800 datasheet: SXM, NVLink of 400 GB/s"),
    Gpu("H20", 96e9, 148e12, 4000e9, 450e9, DGX_H100, "NVIDIA H20 datasheet"),
    Gpu("B200", 180e9, 2250e12, 7700e9, 900e9, DGX_H100, "NVIDIA DGX B200 datasheet, an eighth of it"),
    Gpu("GB200", 186e9, 2500e12, 8000e9, 900e9, DGX_H100, "NVIDIA GB200 NVL72 datasheet, a 72nd of it", per_machine=4),
    Gpu("V100", 32e9, 125e12, 900e9, 150e9, NETWORK, "NVIDIA V100 datasheet: SXM2, 32 GB", "fp16"),
    Gpu("V100-16GB", 16e9, 125e12, 900e9, 150e9, NETWORK, "NVIDIA V100 datasheet: SXM2, 16 GB", "fp16"),
    Gpu("T4", 16e9, 65e12, 300e9, 16e9, NETWORK, "NVIDIA T4 datasheet", "fp16", 4),
    Gpu("L4", 24e9, 121e12, 300e9, 32e9, PCIE, "NVIDIA L4 datasheet"),
    Gpu("L40S", 48e9, 362e12, 864e9, 32e9, PCIE, "NVIDIA L40S datasheet"),
    Gpu("A10", 24e9, 125e12, 600e9, 32e9, PCIE, "NVIDIA A10 datasheet", per_machine=4),
    Gpu("A10G", 24e9, 70e12, 600e9, 32e9, PCIE, "NVIDIA A10G datasheet"),
    Gpu("A30", 24e9, 165e12, 933e9, 32e9, PCIE, "NVIDIA A30 datasheet", per_machine=4),
    Gpu("A40", 48e9, 149.7e12, 696e9, 32e9, PCIE, "NVIDIA A40 datasheet", per_machine=4),
    Gpu("A6000", 48e9, 154.8e12, 768e9, 32e9, PCIE, "NVIDIA RTX A6000 datasheet", per_machine=4),
    Gpu("RTX6000-Ada", 48e9, 364.2e12, 960e9, 32e9, PCIE, "NVIDIA RTX 6000 Ada datasheet", per_machine=4),
    Gpu("RTX3090", 24e9, 71e12, 936e9, 32e9, PCIE, "NVIDIA Ampere GA102 whitepaper, fp32 sums", per_machine=4),
    Gpu("RTX4090", 24e9, 165.2e12, 1008e9, 32e9, PCIE, "NVIDIA Ada whitepaper, fp32 sums"),
    Gpu("RTX5090", 32e9, 209.5e12, 1792e9, 64e9, PCIE, "NVIDIA RTX Blackwell whitepaper, fp32 sums"),
    Gpu("MI300X", 192e9, 1307.4e12, 5300e9, 448e9, DGX_H100, "AMD Instinct MI300X data sheet"),
)
"""By name. What is between machines isn't the GPU's: it is that of its maker's own servers, or 100 Gb/s."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind, in machines that have equally many of them."""

    gpu: Gpu
    count: int
    per_machine: int

    @property
    def machines(self) -> int:
        """How many there are."""
        return self.count // self.per_machine

    @property
    def between(self) -> float:
        """Bytes a second that pass each GPU in a ring through all of them, in one direction.

        A ring enters and leaves a machine by one GPU, and there are as many rings as network cards: so the cards of a
        machine work for each other, and a step of a ring is as fast as the slower of the links inside and all cards
        together (NCCL's "bus bandwidth": nccl-tests, doc/PERFORMANCE.md).
        """
        if self.machines == 1:
            return self.gpu.link
        return min(self.gpu.link, self.gpu.network * self.per_machine)

    def words(self) -> str:
        """`64 H100 in 8 machines of 8`."""
        if self.machines == 1:
            return f"{self.count} {self.gpu.name}{' in a machine' if self.count > 1 else ''}"
        return f"{self.count:,} {self.gpu.name} in {self.machines:,} machines of {self.per_machine}"


def named(name: str) -> Gpu:
    """A GPU of the table: `H100`, `a100 40gb`, `4090`; RequestError where there is none of that name.

    Makers' and forms' names may stand before and behind: `NVIDIA H100 80GB SXM5` is an H100.
    """
    wanted = re.sub(r"^(?:nvidia|amd|geforce|tesla|instinct)+", "", plain(name))
    by_letters = {plain(gpu.name): gpu for gpu in GPUS}
    wanted = wanted if wanted in by_letters else re.sub(r"(?:sxm\d?|hbm\d?e?)+$", "", wanted)
    for letters in (wanted, f"rtx{wanted}", wanted.removeprefix("rtx")):
        if letters in by_letters:
            return by_letters[letters]
    for gpu in GPUS:  # its own memory is what it has anyway
        if wanted in (f"{plain(gpu.name)}{gpu.memory / 1e9:.0f}gb", f"{plain(gpu.name)}{gpu.memory / 1e9:.0f}g"):
            return gpu
    raise RequestError(f"--on: no GPU is called {name!r}.{nearest(name, [gpu.name for gpu in GPUS])} Of one that isn't "
                       "there say --gpu-memory, --flops and --bandwidth.")


def cluster(
    on: str | None, memory: str | None = None, flops: str | None = None, bandwidth: str | None = None,
    per_machine: int | None = None, processes: int = 1,
) -> Cluster:
    """What `--on 64xH100` and the options beside it ask for; RequestError where that isn't clear.

    `--on 64` with --gpu-memory and --flops is 64 of a GPU that isn't in the table; without --on there are as many as
    processes.
    """
    count, name = counted(on, processes)
    if name is None and (memory is None or flops is None):
        raise RequestError("--on: say which GPU, as 8xH100, or give --gpu-memory and --flops of one that isn't in the "
                           f"table. {nearest('', [gpu.name for gpu in GPUS]).strip()}")
    gpu = Gpu("GPU", 0.0, 0.0, 0.0, NETWORK, NETWORK, "as said") if name is None else named(name)
    if memory is not None:
        gpu = replace(gpu, memory=quantity(memory, "--gpu-memory", "80GB", "B"), source=f"{gpu.source}; --gpu-memory")
    if flops is not None:
        gpu = replace(gpu, flops=quantity(flops, "--flops", "989e12", "FLOPS|FLOP/s|FLOPs"))
    here = gpu.per_machine if per_machine is None else per_machine
    if here < 1:
        raise RequestError(f"--gpus-per-node {here}: a machine has 1 GPU or more.")
    here = min(here, count)
    if count % here:
        raise RequestError(f"--on {on}: {count} GPUs don't fill machines of {here}; --gpus-per-node says how many a "
                           f"machine has, as --gpus-per-node {divisor(count, here)}.")
    if bandwidth is not None:
        rate = quantity(bandwidth, "--bandwidth", "50GB/s", "B/s|Bps", bits=True)
        gpu = replace(gpu, network=rate, link=gpu.link if name is not None and count > here else rate)
    return Cluster(gpu, count, here)


def counted(on: str | None, processes: int) -> tuple[int, str | None]:
    """(how many, which): 64xH100, 64 x H100, 64*H100, H100 x 64, H100, 64."""
    said = (on or str(processes)).strip()
    if re.fullmatch(r"\d+", said):
        count, name = int(said), None
    elif found := re.fullmatch(r"(\d+)\s*[x×*]\s*(\S.*)", said, re.IGNORECASE):
        count, name = int(found[1]), found[2]
    elif found := re.fullmatch(r"(\S.*?)\s*[x×*]\s*(\d+)", said, re.IGNORECASE):
        count, name = int(found[2]), found[1]
    else:
        count, name = processes, said
    if not 1 <= count <= MOST:
        raise RequestError(f"--on {said}: from 1 to {MOST:,} GPUs can be planned for.")
    return count, name


def divisor(count: int, most: int) -> int:
    """The largest number up to `most` that divides a count."""
    return next(number for number in range(most, 0, -1) if count % number == 0)


def quantity(said: str, option: str, example: str, unit: str, bits: bool = False) -> float:
    """A figure with or without its unit: 80GB, 80GiB, 989e12, 989 TFLOPS, 50GB/s; with `bits` also 400Gb/s.

    RequestError where it can't be read or isn't above 0. A small b is a bit, eight of which make a byte.
    """
    units = unit + ("|b/s|bps|bit/s" if bits else "")
    found = re.fullmatch(rf"([\d.]+(?:e[+-]?\d+)?)\s*(?:([kmgtpe]i?)?({units}))?|([\d.]+)\s*([kmgtp])", said.strip(),
                         re.IGNORECASE)
    if found is None or (value := number(found[1] or found[4])) is None:
        raise RequestError(f"{option} {said}: isn't a figure that can be read; write it as {example}.")
    if bits and found[3] and found[3].startswith("b"):
        value /= 8
    value *= UNITS[(found[2] or found[5] or "").lower()]
    if not 0 < value < 1e24:
        raise RequestError(f"{option} {said}: must be above 0, as {example}.")
    return value


def number(said: str) -> float | None:
    """A number that is written as one; None where it isn't."""
    try:
        return float(said)
    except ValueError:
        return None
