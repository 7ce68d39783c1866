"""`llmkit launch --print`: what it writes is a script that a shell reads, and a manifest that Kubernetes reads."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from llmkit.cli import app, main
from llmkit.system.errors import RequestError
from llmkit.training.launching import kubernetes, slurm, torchrun
from llmkit.training.launching.wanted import Wanted, seconds, wanted

RECIPE = {"name": "月亮", "backbone": {"family": "gpt2", "size": "tiny"},
          "tokenizer": {"train": {"vocab_size": 300}}, "data": {"train": "a.txt"}, "objective": "causal_lm",
          "training": {"max_steps": 1, "global_batch_size": 16}, "output_dir": "runs/月 亮"}


def printed(kind: str, *words: str, folder: Path) -> str:
    path = folder / "my recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, allow_unicode=True), encoding="utf-8")
    done = CliRunner().invoke(app, ["launch", str(path), "--print", kind, *words], obj=None)
    assert done.exception is None, done.exception
    return done.stdout


def parses(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def made(**given: Any) -> Wanted:
    return wanted(["pretrain", "a b.yaml"], "moon", Path("runs/moon"), 16, **given)


def test_a_batch_script_asks_slurm_for_what_was_said_and_starts_torchrun_on_each_machine(tmp_path: Path) -> None:
    script = printed("slurm", "--nodes", "2", "--gpus", "4", "--cpus", "32", "--time", "1-12:00:00", "--account", "lab",
                     "--partition", "gpu", "--grace", "300", "--set", "training.max_steps=5", folder=tmp_path)
    parses(script)
    assert [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")] == [
        "job-name=run-" + script.partition("job-name=run-")[2].partition("\n")[0], "nodes=2", "ntasks-per-node=1",
        "gpus-per-node=4", "cpus-per-task=32", "time=1-12:00:00", "account=lab", "partition=gpu",
        "signal=B:TERM@300", "open-mode=append", "output=%x-%j.log", "requeue"]
    assert "srun --kill-on-bad-exit=1 torchrun" in script
    assert "--nproc-per-node=4" in script
    assert f"-m llmkit pretrain '{tmp_path}/my recipe.yaml' --set training.max_steps=5 &" in script
    assert "run='runs/月 亮'" in script
    assert 'OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"' in script


def test_a_manifest_is_a_pytorchjob_with_a_pod_a_machine(tmp_path: Path) -> None:
    text = printed("kubernetes", "--nodes", "2", "--gpus", "4", "--time", "90", "--image", "lab/llmkit:1",
                   "--claim", "disk", folder=tmp_path)
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    assert spec["nprocPerNode"] == "4"
    assert spec["elasticPolicy"] == {"rdzvBackend": "c10d", "minReplicas": 2, "maxReplicas": 2, "maxRestarts": 3}
    assert spec["runPolicy"]["activeDeadlineSeconds"] == 5400
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (2, "ExitCode")
    pod = worker["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "disk"}
    (container,) = pod["containers"]
    assert (container["name"], container["image"]) == ("pytorch", "lab/llmkit:1")
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "4"}}
    assert container["command"][:2] == ["bash", "-c"]
    parses(container["command"][2])


@pytest.mark.parametrize(("nodes", "words"), [(1, "--standalone"), (3, '--rdzv-endpoint="$head:29500"')])
def test_plain_torchrun_is_for_one_machine_or_for_each_of_several(nodes: int, words: str) -> None:
    script = torchrun.write(wanted(["finetune", "a b.yaml"], "moon", Path("runs/moon"), 12, nodes=nodes, processes=2,
                                   gpus=2))
    parses(script)
    assert words in script
    assert "-m llmkit finetune 'a b.yaml'" in script


# ---- what a script does: torchrun, srun and scontrol are programs of the test's own ----


def acted(script: str, folder: Path, status: int | None, torchrun: int) -> tuple[int, str]:
    """(exit status, what schedulers were told) where the run leaves a status in its folder and torchrun ends so."""
    said, bin_ = folder / "said", folder / "bin"
    bin_.mkdir()
    leaves = ":" if status is None else (
        f"mkdir -p runs/moon; printf '{{\\n \"status\": {status},\\n \"x\": 1}}' > runs/moon/status.json")
    for name, does in (("torchrun", f"{leaves}; exit {torchrun}"), ("srun", 'shift; exec "$@"'),
                       ("scontrol", f'[ "$1" = show ] && echo node0 || echo "$@" >> {said}'), ("scancel", "")):
        (bin_ / name).write_text(f"#!/bin/bash\n{does}\n")
        (bin_ / name).chmod(0o755)
    done = subprocess.run(["bash", "-c", script], cwd=folder, timeout=60, capture_output=True, text=True, env={
        "PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_NNODES": "2"})
    assert done.stderr == ""
    return done.returncode, said.read_text() if said.exists() else ""


@pytest.mark.parametrize(("status", "ended", "told"), [
    (75, 75, "requeue 7\n"), (137, 137, ""), (3, 3, ""), (0, 0, ""), (None, 1, "")])
def test_slurm_queues_a_run_anew_that_was_stopped_after_a_checkpoint_and_nothing_else(
    status: int | None, ended: int, told: str, tmp_path: Path) -> None:
    assert acted(slurm.write(made(nodes=2)), tmp_path, status, 1 if status != 0 else 0) == (ended, told)


@pytest.mark.parametrize(("status", "ended"), [(75, 143), (137, 137), (3, 3), (0, 0), (None, 137)])
def test_a_pod_ends_so_that_the_operator_starts_it_anew_where_that_helps(
    status: int | None, ended: int, tmp_path: Path) -> None:
    job = yaml.safe_load(kubernetes.write(made(nodes=2, image="a", claim="b")))
    script = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["command"][2]
    assert acted(script, tmp_path, status, 1 if status != 0 else 0) == (ended, "")
    assert list((tmp_path / "runs" / "moon").glob(".started-*")) == []


def test_a_status_of_an_earlier_start_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "runs" / "moon").mkdir(parents=True)
    (tmp_path / "runs" / "moon" / "status.json").write_text('{\n "status": 75,\n "x": 1}')
    os.utime(tmp_path / "runs" / "moon" / "status.json", (1, 1))
    assert acted(torchrun.write(made()), tmp_path, None, 1) == (1, "")


def test_a_script_passes_the_signal_on_and_waits_until_all_is_saved(tmp_path: Path) -> None:
    """torchrun takes a moment to save; the script ends after it, with its status."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "torchrun").write_text(
        "#!/bin/bash\ntrap 'sleep 0.3; echo \" \\\"status\\\": 75,\" > runs/moon/status.json; exit 1' "
        "TERM\necho up > ready\nwhile :; do sleep 0.05; done\n")
    (tmp_path / "bin" / "torchrun").chmod(0o755)
    process = subprocess.Popen(["bash", "-c", torchrun.write(made())], cwd=tmp_path,
                               env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 75


# ---- wrong words ----


@pytest.mark.parametrize(("given", "said"), [
    ({"nodes": 0}, "--nodes 0: at least 1."), ({"gpus": -1}, "--gpus -1: at least 0."),
    ({"nodes": 3}, "--nodes 3: training.global_batch_size 16 can't be shared by 3 processes; --set "
                   "training.global_batch_size=18 can."),
    ({"gpus": 2, "processes": 4}, "--processes 4: a machine of 2 GPUs has 2, one each; say --gpus 0"),
    ({"grace": 5}, "--grace 5: at least 20 seconds, in which a checkpoint is saved"),
    ({"account": "a\n#SBATCH --uid=0"}, "--account 'a\\n#SBATCH --uid=0': letters, digits"),
    ({"image": "a b"}, "--image 'a b'"), ({"time": "soon"}, "--time 'soon': how long it may run"),
    ({"time": "0"}, "--time '0': is no time at all."), ({"cpus": 0}, "--cpus 0: at least 1.")])
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as told:
        made(**given)
    assert said in str(told.value)


@pytest.mark.parametrize(("writer", "given", "said"), [
    (slurm.write, {"image": "a"}, "--image: Slurm has no such thing"),
    (kubernetes.write, {"account": "a"}, "--account: Kubernetes has no such thing"),
    (kubernetes.write, {}, "--image: name the container image"),
    (kubernetes.write, {"image": "a"}, "--claim: name the PersistentVolumeClaim"),
    (torchrun.write, {"time": "90"}, "--time: torchrun has no such thing")])
def test_an_option_that_a_launcher_has_no_use_for_is_refused(writer: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as told:
        writer(made(**given))
    assert said in str(told.value)


@pytest.mark.parametrize(("words", "said"), [
    ([], "launch: say what the file is for: --print slurm, kubernetes or torchrun."),
    (["--print", "slrum"], "--print: no launcher is called 'slrum'. Did you mean 'slurm'?"),
    (["--print", "slurm", "--set", "training.max_step=3"], "max_step")])
def test_the_command_refuses_wrong_words_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "bert_mlm", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("time", "found"), [
    ("90", 5400), ("90:30", 5430), ("24:00:00", 86_400), ("2-12", 216_000), ("2-12:30", 217_800), ("1-0:0:5", 86_405)])
def test_times_are_slurms(time: str, found: int) -> None:
    assert seconds(time) == found


@pytest.mark.parametrize(("name", "job"), [
    ("bert_mlm", "bert-mlm"), ("GPT-2.small", "gpt-2-small"), ("7b", "run-7b"), ("x" * 90, "x" * 50)])
def test_a_jobs_name_is_one_that_every_scheduler_takes(name: str, job: str) -> None:
    assert Wanted((), name, Path("x")).job == job


def test_a_name_in_other_letters_becomes_one_of_its_own() -> None:
    moon, sun = (Wanted((), name, Path("x")).job for name in ("月亮", "太阳"))
    assert moon != sun
    assert json.dumps(moon).isascii() and moon.startswith("run-")
