"""Without parts of a POSIX system, as on Windows, models are still used; what trains says where it is tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.system import machine, signals
from llmkit.training.fit import fit

HIDDEN = """
import builtins, json, os, signal, sys
import accelerate, peft, psutil, torch, transformers
from transformers import BertForSequenceClassification, GPT2LMHeadModel

given = builtins.__import__
missing = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "curses", "readline"}

def load(name, globals=None, *more, **named):
    if name in missing and str((globals or {}).get("__name__")).startswith("llmkit"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return given(name, globals, *more, **named)

builtins.__import__ = load
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGQUIT"):
    delattr(signal, name)
for name in ("fork", "forkpty", "setsid", "setpgid", "killpg", "getuid", "geteuid", "sched_getaffinity"):
    delattr(os, name)
from llmkit.cli import main
for words in json.loads(sys.argv[1]):
    print("status", main(words), flush=True)
"""
"""Runs commands where llmkit finds less than POSIX has; the libraries are those for Linux, and find what they need."""


@pytest.mark.slow
def test_models_are_used_without_what_only_posix_has(tmp_path: Path, text: Path, labelled: Path) -> None:
    for name, family, data in (("writes", "gpt2", text), ("labels", "bert", labelled)):
        tree = tiny(family, data, tmp_path / name, max_steps=1)
        if name == "labels":
            tree["task"] = {"name": "classification"}
            del tree["objective"]
        fit(recipe.load(tree))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat saw the moon ."}\n')
    commands = [
        ["--help"], ["doctor", "--json"], ["evaluate", str(tmp_path / "writes"), "--data", str(text), "--json"],
        ["generate", "the cat", "--model", str(tmp_path / "writes"), "--max-new-tokens", "3", "--json"],
        ["predict", str(tmp_path / "labels"), str(rows)]]
    done = subprocess.run([sys.executable, "-c", HIDDEN, json.dumps(commands)], capture_output=True, text=True,
                          check=False)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("status")] == [
        "status 0", "status 6", "status 0", "status 0", "status 0"], done.stderr
    found = next(json.loads(line)["findings"] for line in lines if line.startswith('{"status"'))
    assert [one["about"] for one in found if one["state"] == "problem"] == ["cache", "runs"]  # nothing can be locked
    written = next(json.loads(line) for line in lines if line.startswith('{"prompt"'))
    assert written["completions"][0]["tokens"] == 3
    assert json.loads(lines[-2])["label"] in ("animal", "other")


def test_a_command_that_trains_says_once_where_it_is_tested(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: "Windows")
    assert main(["pretrain", "no-such-recipe"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        "llmkit: Windows itself is untested; supported are Linux, macOS and WSL2.")
    assert main(["recipes", "show", "no-such-recipe"]) == 2
    assert "untested" not in capsys.readouterr().err


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_a_system_that_is_supported_says_nothing(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: system)
    assert machine.untested() is None


def test_the_peak_of_memory_is_in_bytes_with_and_without_the_resource_module(monkeypatch: pytest.MonkeyPatch) -> None:
    most, held = machine.peak_memory(), machine.held_memory()
    assert 50 << 20 < held < 1.01 * most
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.peak_memory() == pytest.approx(held, rel=0.1)  # of a Linux, psutil knows no peak


def test_an_event_loop_that_takes_no_signals_is_told_all_the_same() -> None:
    class Loop:
        """Windows' own."""

        said: list[str] = []

        def add_signal_handler(self, number: int, act: object) -> None:
            raise NotImplementedError

        def call_soon_threadsafe(self, act: object) -> None:
            assert callable(act)
            act()

    before = {number: signals.signal.getsignal(number) for number in (signals.signal.SIGTERM, signals.signal.SIGINT)}
    try:
        signals.tell(Loop(), lambda: Loop.said.append("stop"))  # type: ignore[arg-type]
        signals.signal.raise_signal(signals.signal.SIGTERM)
        assert Loop.said == ["stop"]
    finally:
        for number, handler in before.items():
            signals.signal.signal(number, handler)
