"""benchmarks/gpu.py: its sections run on a CPU with tiny shapes, and a section that fails costs no other."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> gpu.Bench:
    return gpu.Bench(tmp_path_factory.mktemp("gpu"), tiny=True)


def test_a_dry_run_goes_through_all_sections(tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "GPU_RESULTS.md").read_text()
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == list(gpu.SECONDS)
    assert page.startswith("# A dry run: nothing was measured on a GPU\n")
    assert "It ran on a CPU, with tiny shapes: its speeds say nothing." in page
    assert "MFU" not in page and "Not run" not in page
    assert "| waits | |" not in page and "| not measured | there is no GPU |" in page
    assert "failed" not in page
    for way in ("flex_attention", "flash_attention_2", "use_liger_kernel"):  # which a CPU hasn't
        assert re.search(rf"^\| {way} \| refused ", page, re.MULTILINE), way
    for way in ("gpt2, llmkit", "gpt2, plain loop", "gpt2, Trainer", "sdpa", "chunked_loss", "1 prompts, greedy",
                "2 prompts, sampled", "1 texts at once"):
        assert re.search(rf"^\| {way} \| tokens/s ", page, re.MULTILINE), way
    assert "| compiled | not measured steps are compiled on GPUs, and here it is a CPU that writes |" in page
    assert "two unbroken runs alike True, resumed alike True" in page


def test_a_section_of_a_dry_run_that_fails_is_told(bench: gpu.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ValueError("no such shape")

    monkeypatch.setattr(bench, "writing", fail)
    assert gpu.dry("writing", bench) == {"failed": "ValueError", "it said": "no such shape"}


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
    assert said.startswith("# What was measured on a GPU\n") and "dry run" not in said
    assert "Not run: environment, losses, resume, documents, loss, writing, serving." in said
    assert "dry run" in gpu.page({}, True)


def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "torch sees no GPU here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("card", "bf16", "numbers", "peak"), [
    ("NVIDIA H100 PCIe", True, "bf16", 756e12), ("NVIDIA H100 80GB HBM3", True, "bf16", 989e12),
    ("NVIDIA L40S", True, "bf16", 362e12), ("Tesla T4", False, "fp16", 65e12), ("A card to come", True, "bf16", None)])
def test_a_card_is_measured_in_its_own_numbers_against_its_own_peak(
    card: str, bf16: bool, numbers: str, peak: float | None, bench: gpu.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "gpu", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *of: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    assert (bench.numbers(), bench.peak()) == (numbers, peak)
    assert bench.numbers("t5") == ("fp32" if numbers == "fp16" else numbers)
