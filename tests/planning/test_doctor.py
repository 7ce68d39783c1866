"""`llmkit doctor`: what it finds, what it ends with, and a self-test that fails where something is wrong."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from llmkit import models, recipe
from llmkit.cli import main
from llmkit.planning import doctor
from llmkit.system.errors import CheckpointError, LlmkitError
from llmkit.training.fit import fit


def findings(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, str]]:
    """What `llmkit doctor --json` found, by what it is about."""
    document = json.loads(capsys.readouterr().out)
    return {one["about"]: one for one in document["findings"]}


def test_all_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert {one["state"] for one in found.values()} <= {"ok", "note"}
    assert {"python", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "cores",
            "memory", "cache", "runs", "hub", "models"} <= set(found)
    assert found["torch"]["said"].startswith(metadata.version("torch"))
    assert "switched off by LLMKIT_OFFLINE" in found["hub"]["said"]
    assert all("way_out" in one for one in found.values() if one["state"] != "ok")


def test_each_finding_is_a_line_with_what_to_do_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(models, "cached", lambda name: None)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("note     models        none of the catalogue is here yet")
    assert lines[at + 1].strip() == "llmkit models pull minilm-l6"


@pytest.mark.parametrize(("package", "version", "why"), [
    ("torch", "2.5.1", "CVE-2025-32434"), ("torch", "2.9.0+cu128", "CVE-2026-24747"), ("torch", "2.13.0+cpu", ""),
    ("transformers", "5.2.0", "CVE-2026-4372"), ("transformers", "4.57.1", "auto classes"),
    ("transformers", "5.23.0", ""), ("PyYAML", "5.3", "CVE-2020-1747"), ("PyYAML", "6.0.3", ""), ("numpy", "1.0", "")])
def test_versions_that_are_known_to_be_broken_are_named_with_the_reason(package: str, version: str, why: str) -> None:
    assert why in doctor.broken(package, version)
    assert bool(doctor.broken(package, version)) == bool(why)


@pytest.mark.parametrize(("version", "said"), [
    ("5.2.0", "transformers: 5.2.0: a model's config.json can run code of the hub"),
    ("6.1.0", "transformers: 6.1.0: llmkit needs <6,>=5.20")])
def test_a_version_that_does_not_do_ends_with_2_and_the_command_that_mends_it(
    version: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "transformers" else real(name))
    assert main(["doctor"]) == 2
    out = capsys.readouterr()
    assert f"llmkit: error: {said}" in out.err
    assert "pip install 'transformers" in out.err
    assert "problem  transformers" in out.out


def test_a_package_that_is_missing_or_cannot_be_imported_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    def load(name: str) -> Any:
        if name == "sentencepiece":
            raise ImportError("libc.so.6: version `GLIBC_2.99' not found")

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor, "load_module", load)
    assert main(["doctor", "--json"]) == 2
    out = capsys.readouterr()
    found = {one["about"]: one for one in json.loads(out.out)["findings"]}
    assert found["peft"]["said"] == "isn't installed"
    assert "GLIBC_2.99" in found["sentencepiece"]["said"]
    assert out.err.startswith("llmkit: error: peft: isn't installed. pip install 'peft")
    assert "(1 more above)" in out.err


def test_a_newer_version_than_the_tested_one_is_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.tested_versions()["transformers"].startswith("5.")
    monkeypatch.setattr(doctor, "tested_versions", lambda: {"peft": "0.20.0"})
    assert main(["doctor", "--json"]) == 0
    peft = findings(capsys)["peft"]
    assert peft["state"] == "note"
    assert "newer than the tested 0.20.0" in peft["said"]


@pytest.mark.parametrize(("variable", "about"), [("LLMKIT_CACHE", "cache"), (None, "runs")])
def test_a_place_that_cannot_be_written_ends_with_6(
    variable: str | None, about: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    if variable is None:
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setenv(variable, str(tmp_path / "runs" / "below"))
    assert main(["doctor"]) == 6
    out = capsys.readouterr()
    assert f"problem  {about}" in out.out
    assert "is a file" in out.err


def test_looking_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache" / "below"))
    assert main(["doctor"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_little_disk_and_memory_are_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1 << 60)
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", 1 << 60)
    assert main(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert {found[about]["state"] for about in ("cache", "runs", "memory")} == {"note"}


def test_more_threads_than_a_container_has_cores_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cgroup", lambda name: ["150000", "100000"])
    monkeypatch.setattr(doctor, "_threads", lambda: 8)
    found = doctor.cores()
    assert (found.state, found.said) == ("note", "1.5; torch uses 8 threads")
    assert "OMP_NUM_THREADS=2" in found.way_out


@pytest.fixture
def hub() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def online(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for variable in ("LLMKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_hub_that_answers_is_said_and_a_token_is_not_shown(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    online(monkeypatch, hub)
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY")
    found = doctor.hub()
    assert (found.state, found.said) == ("ok", f"{hub} answers; a token is set")


def test_a_hub_that_does_not_answer_is_a_note_without_the_password_in_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    online(monkeypatch, "http://me:CANARY@127.0.0.1:9/mirror?key=CANARY")
    found = doctor.hub()
    assert (found.state, found.said) == ("note", "http://127.0.0.1:9/mirror can't be reached")
    assert "minilm-l6" in found.way_out


# ---- the self-test ------------------------------------------------------------------------------------------------


@pytest.fixture
def one_family(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The self-test with GPT-2 only."""
    from llmkit.training.trial import selftest

    monkeypatch.setattr(selftest, "MODELS", {"gpt2": selftest.MODELS["gpt2"]})
    return selftest


@pytest.mark.slow
def test_the_self_test_kills_and_resumes_a_model_and_splits_a_step(
    one_family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--selftest", "--json"]) == 0
    found = findings(capsys)
    assert found["gpt2 twice"]["said"].endswith("are the same bit for bit")
    assert found["gpt2 resume"]["said"].endswith("bit for bit those of an unbroken run")
    assert "killed after step" in found["gpt2 resume"]["said"]
    assert "1 x 8, 2 x 4, 4 x 2, 8 x 1" in found["gpt2 split"]["said"]
    assert list(tmp_path.iterdir()) == []


def test_the_self_test_ends_with_4_where_a_run_can_not_go_on(
    one_family: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(tree: dict[str, Any]) -> int:
        raise CheckpointError("killed after step 45, the run can't go on: no disk")

    monkeypatch.setattr(one_family, "kill_and_resume", refuse)
    assert main(["doctor", "--selftest"]) == 4
    out = capsys.readouterr()
    assert "problem  gpt2 resume" in out.out
    assert "llmkit: error: gpt2 resume: killed after step 45, the run can't go on: no disk." in out.err


def test_a_resumed_run_that_learned_something_else_is_told(one_family: Any, text: Path, tmp_path: Path) -> None:
    killed: Future[int] = Future()
    killed.set_result(45)
    for name, seed, steps in (("whole", 42, 4), ("again", 42, 4), ("shorter", 42, 3), ("other", 43, 4)):
        tree = one_family.recipe("gpt2", text, tmp_path / name, max_steps=steps, lr_scheduler_type="constant")
        fit(recipe.load({**tree, "seed": seed}))
    with pytest.MonkeyPatch.context() as shorter:
        shorter.setattr(one_family, "STEPS", 4)
        assert "bit for bit" in one_family.resumed(tmp_path / "whole", tmp_path / "again", killed)
    with pytest.raises(CheckpointError, match="aren't the 4 of an unbroken run"):
        one_family.resumed(tmp_path / "whole", tmp_path / "again", killed)
    for name in ("other", "shorter"):
        with pytest.raises(CheckpointError, match="tensors differ from those of an unbroken run"):
            one_family.resumed(tmp_path / "whole", tmp_path / name, killed)


def test_the_self_test_fails_where_a_split_changes_the_loss(
    one_family: Any, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dropout it does: each micro-batch draws its own."""
    objective, config, _ = one_family.MODELS["gpt2"]
    monkeypatch.setattr(one_family, "MODELS", {"gpt2": (objective, config, {})})
    with pytest.raises(LlmkitError, match="loss or gradient differ by"):
        one_family.split("gpt2", text, tmp_path)


def test_a_run_that_ends_by_itself_is_told_with_what_it_said(
    one_family: Any, tmp_path: Path, text: Path,
) -> None:
    tree = one_family.recipe("gpt2", text, tmp_path / "run", learning_rate=-1)
    with pytest.raises(CheckpointError, match=r"status 2 after step 0: .*learning_rate"):
        one_family.kill_and_resume(tree)
