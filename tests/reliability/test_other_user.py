"""E: a run's folder and a cache that somebody else made, on a machine that several people share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reliability import runs
from reliability.commands import Server

pytestmark = [pytest.mark.reliability, pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can give a folder to somebody else")]

SOMEBODY = 65534
LIKE_ALL = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown")
"""Run as root whom the modes of files stop, as they stop everybody else."""


def give_away(folder: Path) -> None:
    """Let all below a folder be somebody else's: to be read, not to be written."""
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, SOMEBODY, SOMEBODY)
        path.chmod(0o755 if path.is_dir() else 0o644)


def run(llmkit: Server, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `llmkit WORDS` as a person without rights of root."""
    return subprocess.run([*LIKE_ALL, sys.executable, "-m", "llmkit", *map(str, words)], capture_output=True, text=True,
                          check=False, timeout=300, env={**llmkit.environment, **variables})


@pytest.fixture
def finished(llmkit: Server, tree: Callable[..., dict[str, Any]]) -> Path:
    """A recipe whose run is complete, and somebody else's."""
    recipe = runs.write(tree(max_steps=2))
    assert llmkit.run("pretrain", recipe).status == 0
    give_away(recipe.with_suffix(""))
    return recipe


@pytest.mark.parametrize("changed", ["training.max_steps=9", "training.learning_rate=1e-2"], ids=["longer", "other"])
def test_nobody_goes_on_in_a_folder_of_somebody_else(changed: str, llmkit: Server, finished: Path) -> None:
    """A longer run, and another one: the folder is named with the reason, and stays as it was."""
    folder = finished.with_suffix("")
    before = runs.trees(folder)
    done = run(llmkit, "pretrain", finished, "--set", changed)
    assert (done.returncode, "Traceback" in done.stderr) == (6, False), done.stderr
    assert f"llmkit: error: {folder}" in done.stderr
    assert "Permission denied" in done.stderr or "learning_rate" in done.stderr
    assert runs.trees(folder) == before


def test_what_only_reads_works_in_a_folder_of_somebody_else(llmkit: Server, finished: Path, tmp_path: Path) -> None:
    """What needs the folder says so in words of folders; evaluate opens the model, with a cache of one's own."""
    done = run(llmkit, "pretrain", finished)
    assert (done.returncode, done.stderr) == (6, (
        f"llmkit: error: {finished.with_suffix('')}: Permission denied: a run writes in its folder, and this one is "
        "somebody else's; choose another --output-dir.\n"))
    held = tmp_path / "held.txt"
    held.write_text("the cat sat on the mat\n" * 4)
    done = run(llmkit, "evaluate", finished.with_suffix(""), "--data", held, "--json",
               LLMKIT_CACHE=str(tmp_path / "mine"))
    assert done.returncode == 0, done.stderr


def test_a_cache_of_somebody_else_is_told(
    llmkit: Server, tree: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The cache's folder may not be written: 6 with its name and the variable that names another one."""
    cache = tmp_path / "cache"
    cache.mkdir()
    give_away(cache)
    done = run(llmkit, "pretrain", runs.write(tree(max_steps=2)), LLMKIT_CACHE=str(cache))
    assert (done.returncode, "Traceback" in done.stderr) == (6, False), done.stderr
    assert f"llmkit: error: the cache folder {cache}" in done.stderr
    assert "Permission denied. Set LLMKIT_CACHE to one that can." in done.stderr


def test_a_run_that_somebody_keeps_closed_is_told(llmkit: Server, finished: Path, tmp_path: Path) -> None:
    """Under a umask of 077 nobody else may look into it: 6 with what was looked for; a list of runs leaves it out."""
    folder = finished.with_suffix("")
    folder.chmod(0o700)
    held = tmp_path / "held.txt"
    held.write_text("the cat sat on the mat\n" * 4)
    for words in (["evaluate", folder, "--data", held], ["pretrain", finished, "--resume", "must"]):
        done = run(llmkit, *words, LLMKIT_CACHE=str(tmp_path / "mine"))
        assert (done.returncode, "Traceback" in done.stderr) == (6, False), done.stderr
        assert f"llmkit: error: {folder}" in done.stderr and "Permission denied" in done.stderr
    done = run(llmkit, "models", "list", LLMKIT_CACHE=str(folder / "cache"))  # nothing has to be written
    assert done.returncode == 0, done.stderr
    done = run(llmkit, "runs", "list", folder.parent)
    assert (done.returncode, f"{folder}: is left out: Permission denied" in done.stderr) == (0, True), done.stderr
