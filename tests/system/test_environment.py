"""Switches that torch reads are set where a command begins, never over the user's; a launch is whole, or left over."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest import tiny

from llmkit.cli import main
from llmkit.system import environment
from llmkit.system.environment import (
    MPI,
    NUMBERS,
    SWITCHES,
    check_mpi,
    forget_leftovers,
    is_first,
    name_files_in_utf8,
    prepare_torch,
)
from llmkit.system.errors import RequestError
from llmkit.training.spread.processes import accelerate

WHOLE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
         "MASTER_PORT": "29500"}
"""What torchrun sets for the second of two processes."""


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


# ---- a launch, or what is left over of one ----


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a launch's variables be these, and no others."""

    def arrange(variables: Mapping[str, str]) -> None:
        for name in (*WHOLE, *MPI, *MPI.values(), "ACCELERATE_USE_CPU"):
            monkeypatch.setenv(name, "")  # so that all of them are put back
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return arrange


def there() -> dict[str, str]:
    return {name: os.environ[name] for name in NUMBERS if name in os.environ}


@pytest.mark.parametrize(("variables", "named", "missing"), [
    ({"RANK": "0"}, "RANK=0", "WORLD_SIZE, MASTER_ADDR, MASTER_PORT are missing"),
    ({"RANK": "x"}, "RANK=x", "WORLD_SIZE, MASTER_ADDR, MASTER_PORT are missing"),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1", "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are missing"),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE=", "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are missing"),
    ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE=8", "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are missing"),
    ({**WHOLE, "MASTER_PORT": ""}, "RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2", "MASTER_PORT is missing"),
], ids=str)
def test_a_part_of_a_launch_is_taken_out_and_said_once(
    variables: dict[str, str], named: str, missing: str, given: Callable[..., None],
) -> None:
    given(variables)
    assert forget_leftovers() == f"{named}: left over of a launch, for {missing}; ignored, and one process runs"
    assert there() == {}
    assert forget_leftovers() is None


@pytest.mark.parametrize("variables", [
    {}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, {"SLURM_PROCID": "3"}, WHOLE,
    {name: WHOLE[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")},
    {"PMI_RANK": "1", "LOCAL_RANK": "1"}, {"OMPI_COMM_WORLD_RANK": "0", "WORLD_SIZE": "2"},
], ids=str)
def test_a_launch_stays_as_it_is(variables: dict[str, str], given: Callable[..., None]) -> None:
    given(variables)
    before = there()
    assert forget_leftovers() is None
    assert there() == before


@pytest.mark.parametrize(("name", "value", "bounds"), [
    ("RANK", "x", "0 to 1"), ("RANK", "-1", "0 to 1"), ("RANK", "2", "0 to 1"), ("RANK", "1.0", "0 to 1"),
    ("WORLD_SIZE", "0", "1;"), ("WORLD_SIZE", "two", "1;"), ("LOCAL_RANK", "2", "0 to 1"), ("LOCAL_RANK", "", "0 to 1"),
    ("LOCAL_WORLD_SIZE", "0", "1;"), ("MASTER_PORT", "99999", "1 to 65535"), ("MASTER_PORT", "x", "1 to 65535")])
def test_a_launch_whose_numbers_cannot_be_is_refused(
    name: str, value: str, bounds: str, given: Callable[..., None], capsys: pytest.CaptureFixture[str],
) -> None:
    given({**WHOLE, name: value})
    with pytest.raises(RequestError, match=f"^{name}={value}: a launcher sets a whole number from {bounds}") as error:
        forget_leftovers()
    assert error.value.status == 2
    assert main(["recipes", "list"]) == 2
    assert f"llmkit: error: {name}={value}: " in capsys.readouterr().err


@pytest.mark.parametrize("size", MPI.values())
def test_of_mpi_alone_a_number_of_processes_is_left_over(size: str, given: Callable[..., None]) -> None:
    given({size: "4"})
    assert forget_leftovers() == (f"{size}=4: left over of a launch, for RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT "
                                  "are missing; ignored, and one process runs")
    assert size not in os.environ


@pytest.mark.parametrize(("rank", "size"), MPI.items())
def test_processes_of_mpi_that_cannot_meet_are_no_runs_of_their_own(
    rank: str, size: str, text: Path, tmp_path: Path, given: Callable[..., None], capsys: pytest.CaptureFixture[str],
) -> None:
    """accelerate would end them as nobody foresaw. What each does by itself goes on."""
    given({rank: "1", size: "2", "RANK": "0"})
    assert main(["recipes", "list"]) == 0
    capsys.readouterr()
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps(tiny("bert", text, tmp_path / "run")))
    assert main(["plan", str(recipe)]) == 2
    assert f"{size}=2, {rank}=1: MPI started several processes, and MASTER_ADDR" in capsys.readouterr().err
    with pytest.raises(RequestError, match="MPI started several processes"):
        accelerate("fp32", Path())
    for variables in ({rank: "1", size: "2", "MASTER_ADDR": "10.0.0.1"}, {rank: "0", size: "1"}):
        given(variables)
        check_mpi()


@pytest.mark.parametrize("said", ["banana", "", "2", "y"])
def test_a_switch_that_is_neither_yes_nor_no_is_refused(said: str, given: Callable[..., None]) -> None:
    given({"ACCELERATE_USE_CPU": said})
    with pytest.raises(RequestError, match=f"^ACCELERATE_USE_CPU={said}: is neither yes nor no; set it to 1"):
        forget_leftovers()


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("", True), ("1", False), ("x", True)])
def test_one_process_of_a_launch_speaks(rank: str | None, first: bool, given: Callable[..., None]) -> None:
    given({} if rank is None else {"RANK": rank})
    assert is_first() is first


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
