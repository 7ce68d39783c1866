"""benchmarks/gpu.py: its sections run on a CPU with tiny shapes, and a section that fails costs no other."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> gpu.Bench:
    return gpu.Bench(tmp_path_factory.mktemp("gpu"), tiny=True)


def test_writing_and_serving_are_measured(bench: gpu.Bench) -> None:
    assert list(bench.writing()) == ["1 prompts, greedy", "1 prompts, sampled", "2 prompts, greedy",
                                     "2 prompts, sampled"]
    assert all(figures["tokens/s"] > 0 for figures in bench.serving().values())
    assert bench.waits() == {"not measured": "there is no GPU"}


def test_a_plain_loop_stands_beside_it(bench: gpu.Bench) -> None:
    assert bench.plain("gpt2", "tiny", {}, 16, 4) > 0
    # 2 layers, 128 wide: 12 x 128² numbers a layer; 50,257 words; attention over 16 tokens
    assert bench.operations("gpt2", "tiny", {}, 16) == 6 * (2 * 12 * 128**2 + 50257 * 128) + 12 * 2 * 128 * 16


def test_a_section_that_hangs_or_fails_is_told(tmp_path: Path) -> None:
    def hang(words: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired(words, options["timeout"])

    def fail(words: Any, **options: Any) -> Any:
        return subprocess.CompletedProcess(words, 1, "", "CUDA error")

    def end(words: Any, **options: Any) -> Any:
        return subprocess.CompletedProcess(words, 0, 'noise\n{"gpt2": {"waits": 3}}\n', "")

    assert gpu.measured("waits", tmp_path, True, hang) == {"failed": "it took longer than 90 s"}
    assert gpu.measured("waits", tmp_path, True, fail) == {"failed": "exit status 1", "it said": "CUDA error"}
    assert gpu.measured("waits", tmp_path, True, end) == {"gpt2": {"waits": 3}}


def test_results_are_a_table_a_section() -> None:
    said = gpu.page({"speed": {"gpt2, llmkit": {"tokens/s": 12345.678, "MFU": 0.4}}, "waits": {"why": "no GPU"}}, False)
    assert "| gpt2, llmkit | tokens/s 1.235e+04, MFU 0.4 |" in said
    assert "## waits\n\n| | |\n|---|---|\n| why | no GPU |" in said
    assert "dry run" not in said
    assert "dry run" in gpu.page({}, True)
