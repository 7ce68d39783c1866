"""The switches that torch reads: set where a command begins, not by an import, and never over what the user set."""

import os
import subprocess
import sys

import pytest

from llmkit.system.environment import SWITCHES, prepare_torch


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_an_import_writes_nothing_into_the_environment() -> None:
    assert printed("import os; before = dict(os.environ); import llmkit; print(before == dict(os.environ))") == "True\n"


def test_a_command_sets_the_switches_before_torch_is_there() -> None:
    code = ("import os, sys\nfrom llmkit.cli import main\nmain(['recipes', 'list', '--json'])\n"
            f"print(['torch' in sys.modules, *map(os.environ.get, {list(SWITCHES)})])")
    assert printed(code).splitlines()[-1] == "[False, '1', '128', '128']"


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    prepare_torch()
    assert [os.environ[name] for name in SWITCHES] == ["1", "7", "7"]
