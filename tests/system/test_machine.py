"""What is read of a machine's memory and disks, from files as a kernel writes them."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmkit.system import machine

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """/sys/fs/cgroup of a machine of 8 GiB, of which 5 are free; the test writes its files."""
    limits = machine._limits
    monkeypatch.setattr(machine, "_limits", lambda: limits(tmp_path))
    monkeypatch.setattr(machine, "_installed", lambda: 8 * GIB)
    monkeypatch.setattr(machine, "_available", lambda: 5 * GIB)

    def write(**files: Any) -> None:
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{content}\n")

    return write


def test_without_a_container_all_that_is_built_in_may_be_used(groups):
    assert (machine.main_memory(), machine.free_main_memory()) == (8 * GIB, 5 * GIB)


@pytest.mark.parametrize(("most", "used", "may", "free"), [
    (2 * GIB, GIB, 2 * GIB, GIB),  # a container that is smaller than its machine
    (2 * GIB, 3 * GIB, 2 * GIB, 0),  # more is held than may be: page cache of others
    (16 * GIB, GIB, 8 * GIB, 5 * GIB),  # a limit above what is built in limits nothing
    ("max", GIB, 8 * GIB, 5 * GIB)])
def test_a_containers_limit_is_what_may_be_used(groups, most, used, may, free):
    groups(memory_dot_max=most, memory_dot_current=used)
    assert (machine.main_memory(), machine.free_main_memory()) == (may, free)


def test_the_first_version_of_groups_is_read_too(groups):
    groups(memory__memory_dot_limit_in_bytes=3 * GIB, memory__memory_dot_usage_in_bytes=2 * GIB)
    assert (machine.main_memory(), machine.free_main_memory()) == (3 * GIB, GIB)


def test_of_several_limits_the_smallest_counts(groups):
    groups(memory_dot_max=4 * GIB, memory_dot_current=0, memory__memory_dot_limit_in_bytes=3 * GIB,
           memory__memory_dot_usage_in_bytes=0)
    assert machine.main_memory() == 3 * GIB


def test_a_limit_without_what_is_used_is_left_out(groups):
    groups(memory_dot_max=4 * GIB)
    assert machine.main_memory() == 8 * GIB


@pytest.mark.skipif(sys.platform != "linux", reason="it is compared with what the kernel of a Linux says")
def test_what_is_built_in_and_what_could_be_had_is_what_the_kernel_says():
    lines = Path("/proc/meminfo").read_text().splitlines()
    said = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    assert machine._installed() == said["MemTotal"]
    assert machine._available() == pytest.approx(said["MemAvailable"], abs=GIB)


def test_processes_that_share_a_memory_share_it_evenly(groups, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert machine.memory_each() == 8 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert machine.memory_each() == 2 * GIB


def test_each_process_of_a_machine_with_gpus_has_one(monkeypatch):
    class Properties:
        total_memory = 80 * GIB

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Properties)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (70 * GIB, 80 * GIB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (machine.memory_each(), machine.free_memory()) == (80 * GIB, 70 * GIB)


@pytest.mark.skipif(sys.platform != "linux", reason="it is compared with what the kernel of a Linux says")
def test_what_a_process_holds_is_what_the_kernel_says():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert machine.held_memory() == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.02)


def test_the_peak_is_in_bytes_where_the_system_counts_kilobytes_and_where_it_doesnt(monkeypatch):
    import resource

    class Used:
        ru_maxrss = 1000

    monkeypatch.setattr(resource, "getrusage", lambda who: Used)
    monkeypatch.setattr(sys, "platform", "linux")
    assert machine.peak_memory() == 1_024_000
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.peak_memory() == 1000


def test_room_is_that_of_the_nearest_folder_that_is_there(tmp_path, monkeypatch):
    assert machine.existing(tmp_path / "a" / "b" / "c") == tmp_path
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    assert machine.existing(tmp_path / "a" / "file" / "below") == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    assert machine.existing(Path("a")) == tmp_path / "a"
    seen = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: seen.append(path) or shutil._ntuple_diskusage(9, 2, 7))
    assert machine.free_disk(Path("a/new/run")) == 7
    assert seen == [tmp_path / "a"]


@pytest.mark.parametrize(("count", "words"), [
    (0, "0 kB"), (120, "0.12 kB"), (999, "0.999 kB"), (4_321, "4.32 kB"), (999_999, "1e+03 kB"), (1_000_000, "1 MB"),
    (44_700_000, "44.7 MB"), (123_400_000, "123 MB"), (1.5e9, "1.5 GB"), (24 * GIB, "25.8 GB"), (2e12, "2,000 GB")])
def test_bytes_are_said_in_three_figures(count, words):
    assert machine.size(count) == words


def test_the_version_of_a_package_is_looked_up_once(monkeypatch):
    from importlib import metadata

    asked = []

    def version(name):
        asked.append(name)
        if name == "nothing-of-this-name":
            raise metadata.PackageNotFoundError(name)
        return "9.9"

    machine.installed.cache_clear()
    monkeypatch.setattr(metadata, "version", version)
    try:
        assert [machine.installed(name) for name in ("torch", "nothing-of-this-name") * 2] == ["9.9", None] * 2
        assert asked == ["torch", "nothing-of-this-name"]
    finally:
        machine.installed.cache_clear()


FREED = """
import sys
import numpy as np
from llmkit.system import machine

told = sys.argv[1] == "asks" and machine.give_back_what_is_freed()
np.ones(30 << 17)  # glibc keeps blocks of this size from now on, where nobody said otherwise
blocks = [(np.ones(4 << 17), np.ones(1 << 14)) for _ in range(20)]
before = machine.held_memory()
kept = [small for _, small in blocks]
blocks.clear()
print((before - machine.held_memory()) >> 20 if told == (sys.argv[1] == "asks") and kept else -1)
"""


def freed(asks: bool) -> int:
    """MB that leave a process of its own when it frees 20 blocks of 4 MB, between which others stay."""
    return int(subprocess.run([sys.executable, "-c", FREED, "asks" if asks else ""], capture_output=True, text=True,
                              check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others give back what is freed in ways of their own")
def test_what_is_freed_in_large_blocks_goes_back_to_the_system_where_that_is_asked(monkeypatch):
    monkeypatch.delenv(machine.KEPT_BY_GLIBC, raising=False)
    assert freed(False) < 10
    assert 75 <= freed(True) <= 85
    monkeypatch.setenv(machine.KEPT_BY_GLIBC, "131072")
    assert not machine.give_back_what_is_freed()
