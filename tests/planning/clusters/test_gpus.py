"""What `--on 64xH100` and the options beside it mean, in all the ways in which people write it."""

import re

import pytest

from llmkit.planning.clusters.gpus import GPUS, Cluster, cluster, named, quantity
from llmkit.system.errors import RequestError


@pytest.mark.parametrize(("on", "count", "name", "per_machine"), [
    ("64xH100", 64, "H100", 8), ("64 x h100", 64, "H100", 8), ("H100x16", 16, "H100", 8),
    ("8*A100-40GB", 8, "A100-40GB", 8),
    ("H100", 1, "H100", 1), ("2xRTX 4090", 2, "RTX4090", 2), ("4×4090", 4, "RTX4090", 4), ("4xH100 80GB", 4, "H100", 4),
    ("8xNVIDIA H100 SXM5", 8, "H100", 8), ("8xa100 40gb", 8, "A100-40GB", 8), ("8xgb200", 8, "GB200", 4),
    ("16xA100-80GB", 16, "A100", 8), ("NVIDIA A100-PCIe", 1, "A100-PCIe", 1), ("8xTesla T4", 8, "T4", 4),
])
def test_gpus_are_found_by_what_people_call_them(on: str, count: int, name: str, per_machine: int) -> None:
    found = cluster(on)
    assert (found.count, found.gpu.name, found.per_machine) == (count, name, per_machine)


@pytest.mark.parametrize(("said", "bytes_"), [
    ("50GB/s", 50e9), ("400Gb/s", 50e9), ("400 Gbps", 50e9), ("50e9", 50e9), ("0.4Tb/s", 50e9), ("50GBps", 50e9)])
def test_a_small_b_is_a_bit(said: str, bytes_: float) -> None:
    assert quantity(said, "--bandwidth", "50GB/s", "B/s|Bps", bits=True) == pytest.approx(bytes_)


@pytest.mark.parametrize(("said", "unit", "value"), [
    ("80GB", "B", 80e9), ("80GiB", "B", 80 * 2**30), ("80e9", "B", 80e9), ("80G", "B", 80e9),
    ("989e12", "FLOPS", 989e12), ("989 TFLOPS", "FLOPS|FLOP/s", 989e12), ("0.989PFLOP/s", "FLOPS|FLOP/s", 989e12)])
def test_figures_may_have_their_unit(said: str, unit: str, value: float) -> None:
    assert quantity(said, "--flops", "989e12", unit) == pytest.approx(value)


def test_a_gpu_that_is_in_no_table_is_said_by_its_figures() -> None:
    found = cluster("64", "80GB", "989e12", "50GB/s", 8)
    assert (found.count, found.machines) == (64, 8)
    assert (found.gpu.memory, found.gpu.flops, found.gpu.network, found.gpu.link) == (80e9, 989e12, 50e9, 50e9)
    assert cluster(None, "24GB", "1e14", processes=2).count == 2


def test_a_bandwidth_is_that_of_the_slowest_link_that_the_run_needs() -> None:
    several, single = cluster("64xH100", bandwidth="25GB/s"), cluster("8xH100", bandwidth="64GB/s")
    assert (several.gpu.network, several.gpu.link) == (25e9, 450e9)
    assert single.gpu.link == 64e9


def test_the_cards_of_a_machine_work_for_each_other() -> None:
    """DGX H100: 8 cards of 50 GB/s against 450 of NVLink; one GPU a machine has its own card alone."""
    assert cluster("64xH100").between == 400e9
    assert cluster("8xH100").between == 450e9
    assert cluster("8xH100", per_machine=1).between == 50e9


@pytest.mark.parametrize(("arguments", "said"), [
    (("64xH101",), "--on: no GPU is called 'H101'. Did you mean 'H100'?"),
    (("64",), "--on: say which GPU, as 8xH100"),
    (("12xH100",), "--on 12xH100: 12 GPUs don't fill machines of 8; --gpus-per-node says how many a machine has, as "
     "--gpus-per-node 6."),
    (("0xH100",), "--on 0xH100: from 1 to 1,000,000 GPUs"),
    (("8xH100", "eighty"), "--gpu-memory eighty: isn't a figure that can be read; write it as 80GB."),
    (("8xH100", "0GB"), "--gpu-memory 0GB: must be above 0"),
    (("8xH100", "1.2.3GB"), "--gpu-memory 1.2.3GB: isn't a figure"),
    (("8xH100", None, None, "50 cm"), "--bandwidth 50 cm: isn't a figure"),
    (("8xH100", None, None, None, 0), "--gpus-per-node 0: a machine has 1 GPU or more."),
])
def test_what_is_unclear_is_told_with_the_way_out(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(said)}"):
        cluster(*arguments)


def test_every_gpu_of_the_table_says_where_its_figures_stand_and_is_one() -> None:
    """Ranges that no card is outside of: a figure in the wrong unit, or one with sparsity, is."""
    for gpu in GPUS:
        assert named(gpu.name) is gpu
        assert "sheet" in gpu.source or "whitepaper" in gpu.source
        assert 10e9 < gpu.memory < 300e9 and 50e12 < gpu.flops < 3e15
        assert 50 < gpu.flops / gpu.memory_bandwidth < 600 or gpu.name == "H20"
        assert gpu.network <= gpu.link < gpu.memory_bandwidth
    assert named("H100").flops == pytest.approx(1979e12 / 2, rel=1e-3)  # dense is half of the data sheet's figure


def test_a_machine_holds_no_more_gpus_than_there_are() -> None:
    assert cluster("4xH100") == Cluster(named("H100"), 4, 4)
    assert cluster("4xH100").words() == "4 H100 in a machine"
