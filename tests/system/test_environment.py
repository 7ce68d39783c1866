"""The switches that torch reads: set where a command begins, not by an import, and never over what the user set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmkit.system import environment
from llmkit.system.environment import SWITCHES, name_files_in_utf8, prepare_torch


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


# ---- names of files -------------------------------------------------------------------------------------------------

ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
MAKES = ("import os, sys; from llmkit.system.environment import name_files_in_utf8; name_files_in_utf8()\n"
         "os.mkdir(sys.argv[1]); os.mkdir('\\u732b'); print(sys.stdout.encoding, sys.getfilesystemencoding())")


def test_a_chinese_folder_is_made_where_python_knows_names_of_ascii_only(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MAKES, "\u4e2d\u6587"], cwd=tmp_path, capture_output=True, check=True,
                          env={**os.environ, **ASCII})
    assert done.stdout == b"ascii utf-8\n"  # the terminal is what it was
    assert sorted(os.listdir(tmp_path)) == ["\u4e2d\u6587", "\u732b"]


def test_what_the_terminal_reads_is_what_the_user_says(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MAKES, "a"], cwd=tmp_path, capture_output=True, check=True,
                          env={**os.environ, **ASCII, "PYTHONIOENCODING": "gbk"})
    assert done.stdout == b"gbk utf-8\n"


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "iso8859-1"])
def test_names_in_other_letters_are_left_alone(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr(environment.os, "execv", lambda *words: pytest.fail("it began anew"))
    name_files_in_utf8()


def test_a_program_is_told_that_a_folder_cant_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmkit.system.errors import PlaceError
    from llmkit.training.folder.run_folder import telling

    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    message = r"\\u732b': file names are ascii here and can't say this one; set PYTHONUTF8=1, or choose another"
    with pytest.raises(PlaceError, match=message), telling(tmp_path / "\u732b"):
        "\u732b".encode("ascii")
    with pytest.raises(UnicodeEncodeError), telling(tmp_path):  # what isn't a name is no such thing
        "\u732b".encode("latin-1")
