"""What follows `--`, and what a person saved by `accelerate config`: honoured, refused, or named."""

import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmkit.system.environment import WORLD, check_world
from llmkit.system.errors import RequestError, Stopped
from llmkit.training.folder.ending import ended
from llmkit.training.spread import accelerate_options, launch
from llmkit.training.spread.accelerate_options import Start, asked, command, passed_over
from llmkit.training.spread.processes import unheard

TWO = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "node0", "--main_process_port", "29500"]
KINDS = ("multi_gpu", "tpu", "use_deepspeed", "use_fsdp", "use_megatron_lm")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody has saved anything; HF_HOME is where they would have."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", WORLD):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf"


def save(home: Path, **fields: Any) -> Path:
    """A configuration as `accelerate config` leaves it."""
    path = home / "accelerate" / "default_config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU",
                                    "num_machines": 1, "num_processes": 4, "machine_rank": 0, **fields}))
    return path


def parsed(options: tuple[str, ...]) -> Namespace:
    """The options as accelerate's own launcher reads them."""
    from accelerate.commands.launch import launch_command_parser

    found: Namespace = launch_command_parser().parse_args([*options, "-m", "llmkit"])
    return found


def test_processes_are_those_of_one_machine_and_accelerate_is_told_all() -> None:
    start = asked(2, TWO)
    assert (start.each, start.machines, start.world) == (2, 2, 4)
    given = parsed(start.options)
    assert (given.num_processes, given.num_machines, given.machine_rank, given.multi_gpu) == (4, 2, 1, True)
    assert (given.main_process_ip, given.main_process_port) == ("node0", 29500)


def test_a_cpu_has_several_processes_too() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one, and says nothing."""
    start = asked(2, ["--cpu"])
    assert start.cpu
    given = parsed(start.options)
    assert (given.cpu, given.multi_gpu, given.num_processes) == (False, True, 2)
    assert not parsed(asked(1, ["--cpu"]).options).multi_gpu


@pytest.mark.parametrize(("processes", "options", "said"), [
    (2, [*TWO, "--num_processes", "2"], "--num_processes 2: --processes 2 is for each machine, so 2 have 4; leave"),
    (1, ["--num_machines", "2"], "--num_machines 2: --main_process_ip and --main_process_port must say where"),
    (1, [*TWO, "--machine_rank", "2"], "--machine_rank 2: 2 machines are 0 to 1"),
    (1, [*TWO, "--num_processes", "3"], "num_processes 3 can't be shared evenly by 2 machines"),
    (1, ["--use_deepspeed"], "--use_deepspeed isn't supported; use plain data parallelism"),
    (1, ["--tpu"], "--tpu isn't supported"),
    (1, ["--mixed_precision", "int8"], "invalid choice: 'int8'"),
    (1, ["--nosuch"], "after `--`, unrecognized arguments: --nosuch"),
    (1, ["train.py"], "after `--`, 'train.py' isn't an option"),
    (1, ["--config_file", "/none.yaml"], "--config_file /none.yaml: can't be read")])
def test_options_that_cannot_be_are_refused(processes: int, options: list[str], said: str) -> None:
    with pytest.raises(RequestError) as told:
        asked(processes, options)
    assert said in str(told.value)


def test_a_saved_configuration_says_how_many_where_nothing_else_does(home: Path) -> None:
    save(home, num_machines=2, num_processes=8, machine_rank=1, main_process_ip="a", main_process_port=1)
    start = asked(1, ["--max_restarts", "2"])
    assert (start.each, start.machines, start.notes) == (4, 2, ())
    start = asked(2, ["--max_restarts", "2"])
    assert (start.each, start.machines) == (2, 2)
    assert "num_processes 8: --processes 2 on each of 2 machines goes over it" in start.notes[0]


@pytest.mark.parametrize(("fields", "said"), [
    ({"distributed_type": "DEEPSPEED"}, "DEEPSPEED isn't supported; NO, MULTI_CPU, MULTI_GPU, FSDP are"),
    ({"compute_environment": "AMAZON_SAGEMAKER"}, "compute_environment AMAZON_SAGEMAKER isn't supported"),
    ({"num_machines": 2}, "--num_machines 2: --main_process_ip and")])
def test_a_saved_configuration_that_cannot_be_is_refused(fields: dict[str, Any], said: str, home: Path) -> None:
    path = save(home, **fields)
    with pytest.raises(RequestError) as told:
        asked(1, ["--config_file", str(path)])
    assert said in str(told.value)


def test_what_of_a_configuration_is_not_used_is_named(home: Path) -> None:
    save(home, mpirun_config={"mpirun_hostfile": "hosts"}, use_cpu=True)
    start = asked(1, ["--max_restarts", "1"])
    assert start.cpu
    assert [note.partition(", ")[2] for note in start.notes] == [
        "mpirun_config: mpirun isn't used: processes find each other by main_process_ip"]


def test_a_configuration_that_is_not_read_is_told_where_it_asks_for_more(home: Path) -> None:
    assert passed_over(1) == ""
    path = save(home)
    assert passed_over(4) == ""
    assert passed_over(1) == (
        f"accelerate's saved configuration {path} (4 processes, 1 machines) isn't read without `--`: `-- --config_file "
        f"{path}` starts by it; this run has 1")


def test_what_the_launcher_sets_and_the_recipe_decides_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unheard("fp32") == []
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert unheard("fp32") == [
        "accelerate's configuration: mixed_precision fp16 isn't used: training.precision decides, and is fp32",
        "accelerate's configuration: dynamo_backend inductor isn't used: training.compile decides",
        "accelerate's configuration: gradient_accumulation_steps 4 isn't used: training.global_batch_size and "
        "micro_batch_size decide"]
    assert len(unheard("fp16")) == 2


# ---- the world is what the launcher says ----


@pytest.mark.parametrize(("there", "wanted", "wrong"), [
    (None, None, False), ("4", "4", False), ("2", None, False), (None, "4", True), ("2", "4", True)])
def test_a_process_of_another_world_than_was_asked_for_refuses(
    there: str | None, wanted: str | None, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", there), (WORLD, wanted)):
        if value is not None:
            monkeypatch.setenv(name, value)
    if not wrong:
        check_world()
        return
    with pytest.raises(RequestError, match=f"this process is one of {there or 1}, and 4 were asked for"):
        check_world()


def test_a_way_to_spread_that_is_not_gone_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RequestError, match=r"DeepSpeed \(accelerate's launcher sets ACCELERATE_USE_DEEPSPEED\)"):
        check_world()


def test_processes_and_a_launcher_that_started_others_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    launch.check_here(4)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    launch.check_here(2)
    launch.check_here(1)
    with pytest.raises(RequestError, match="--processes 4: the launcher started 2 on this machine; leave"):
        launch.check_here(4)


# ---- the run's own status ----


@pytest.mark.parametrize("said", [3, None])
def test_the_status_of_the_run_is_told_where_the_launcher_ends_with_1(
    said: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def start(words: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        given.append((words, variables))
        if said is not None:
            (tmp_path / "status.json").write_text(ended(said, "a.txt: no such file or folder."))
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], start_new_session=True)

    monkeypatch.setattr(launch, "start", start)
    if said is None:
        assert launch.launch(["pretrain", "x.yaml"], 2, TWO, tmp_path) == 1
    else:
        with pytest.raises(Stopped) as told:
            launch.launch(["pretrain", "x.yaml"], 2, TWO, tmp_path)
        assert (told.value.status, str(told.value)) == (3, "a.txt: no such file or folder.")
    words, variables = given[0]
    assert words[1:4] == ["-m", "accelerate.commands.launch", "--num_processes=4"]
    assert words[-4:] == ["-m", "llmkit", "pretrain", "x.yaml"]
    assert variables[WORLD] == "4"


def test_a_start_without_gpus_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    def start(words: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        given.append(variables)
        return subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)

    monkeypatch.setattr(launch, "start", start)
    assert launch.by_accelerate(Start(1, 1, (), cpu=True), [], None) == 0
    assert given[0]["CUDA_VISIBLE_DEVICES"] == ""
    assert command(Start(1, 1, ("--cpu",)), ["plan"])[-3:] == ["-m", "llmkit", "plan"]


def test_our_own_processes_know_how_many_were_asked_for() -> None:
    assert launch._variables(1, 2, 4711)[WORLD] == "2"
    assert accelerate_options.WAYS == KINDS
    assert signal.SIGTERM in launch.listened()
