"""A plan's figures are those of the run that follows, and nothing is left of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import run_in_two, tiny
from short import losses, short_of_memory

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.cli.preparing.plan import words
from llmkit.system import machine
from llmkit.system.errors import LlmkitError
from llmkit.training.fit import fit
from llmkit.training.trial import rehearsal as planning

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "steps": ("bert", {"training": {"max_steps": 5, "save_steps": 2, "eval_steps": 2}}),
    "epochs": ("gpt2", {"training": {"num_train_epochs": 1.5}}),
    "one checkpoint": ("t5", {"training": {"max_steps": 3, "save_steps": 1, "save_total_limit": 1}}),
    "best": ("bert", {"training": {"max_steps": 3, "metric_for_best_model": "loss"}}),
    "two networks": ("electra", {"objective": {"name": "replaced_token"}}),
    "lora": ("bert", {"task": {"name": "classification"}, "tuning": {"method": "lora"}}),
    "prefix": ("gpt2", {"task": {"name": "instruction"}, "tuning": {"method": "prefix"}}),
    "adalora": ("bert", {"task": {"name": "classification"}, "tuning": {"method": "adalora"}}),
    "tied": ("llama", {"backbone": {"config": {"tie_word_embeddings": True}}}),
    "preference": ("gpt2", {"task": {"name": "preference"}, "tuning": {"method": "lora"}}),
    "written": ("t5", {"task": {"name": "summarization"}}),
}
"""A family, and what else its recipe says."""
FILES = {"classification": "labelled", "instruction": "asked", "summarization": "summarized", "preference": "preferred"}


@pytest.fixture
def tree_of(text: Path, request: pytest.FixtureRequest) -> Any:
    def make(case: str, folder: Path) -> dict[str, Any]:
        family, more = CASES[case]
        task = more.get("task", {}).get("name")
        tree = tiny(family, request.getfixturevalue(FILES[task]) if task else text, folder)
        if task:
            del tree["objective"]
        for block, fields in more.items():
            tree[block] = {**tree.get(block, {}), **fields}
        tree["data"]["validation"] = 0.2
        if "num_train_epochs" in more.get("training", {}):
            del tree["training"]["max_steps"]
        return tree

    return make


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder: (size, time of the last change)."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_says_what_the_run_then_takes(case: str, tree_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    asked = recipes.load(tree_of(case, folder))
    before = everything(tmp_path)
    found = planning.plan(asked)
    assert everything(tmp_path) == before
    assert json.loads(json.dumps(found)) == found
    summary = fit(asked)
    assert found["length"]["steps"] == summary["steps"]
    assert found["length"]["tokens"] == pytest.approx(summary["tokens"], rel=0.2)
    assert found["parameters"] == summary["parameters"]
    assert found["trainable_parameters"] == summary["trainable_parameters"]
    left = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert found["disk"]["run"] == pytest.approx(left, rel=0.1)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert found["time"]["evaluation_count"] == sum(event["event"] == "evaluate" for event in events)
    assert found["disk"]["checkpoints_kept"] == len(list((folder / "checkpoints").glob("step-*")))
    one = next((folder / "checkpoints").glob("step-*"))
    assert found["disk"]["checkpoint"] == pytest.approx(planning.bytes_of(one), rel=0.05)
    assert found["disk"]["model"] == pytest.approx(planning.bytes_of(folder / "model"), rel=0.05)


def test_the_figures_belong_together(text: Path, tmp_path: Path) -> None:
    tree = tiny("bert", text, tmp_path / "run", max_steps=1_000)
    tree["data"]["validation"] = 0.2
    found = planning.plan(recipes.load(tree))
    length, speed, time, memory = found["length"], found["speed"], found["time"], found["memory"]
    assert length["tokens"] == pytest.approx(1_000 * length["tokens_per_step"], rel=1e-2)
    assert length["epochs"] == 1_000 * 8 / found["data"]["rows"]
    assert time["training"] == pytest.approx(length["tokens"] / speed["tokens_per_second"])
    assert time["total"] == time["training"] + time["evaluations"] + time["checkpoints"] + time["reference"]
    assert time["reference"] == 0
    assert (time["evaluation_count"], time["checkpoint_count"]) == (2, 2)
    assert len(speed["seconds_per_step"]) == 3
    assert 0 < speed["mfu"] < 1
    assert memory["weights"] >= 4 * found["parameters"]
    assert (memory["gradients"], memory["optimizer"]) == (4 * found["parameters"], 8 * found["parameters"])
    assert memory["weights"] < memory["peak"] < memory["available"]


def test_a_checkpoint_beside_the_steps_costs_a_copy_in_memory_and_hardly_time(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """A disk that takes 5 s for each of the two: once while the run waits, once beside its steps."""
    monkeypatch.setattr(planning, "seconds_to_write", lambda count, folder: 5.0)
    tree = tiny("bert", text, tmp_path / "run", max_steps=100_000, save_steps=50_000, async_save=True)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipes.dump(recipes.load(tree)))
    assert main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert "more while a checkpoint is written beside the steps" in said
    assert "2 checkpoints 00:05" in said


@pytest.mark.parametrize(("length", "field"), [
    ({"max_minutes": 30}, "max_minutes"), ({"max_tokens": 5_000}, "max_tokens")])
def test_a_run_that_isnt_counted_in_steps_is_told_as_such(
    length: dict[str, Any], field: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny("bert", text, tmp_path / "run")
    del tree["training"]["max_steps"]
    tree["training"] |= length
    path = tmp_path / "recipe.yaml"
    path.write_text(recipes.dump(recipes.load(tree)))
    found = planning.plan(recipes.load(tree))
    assert (found["length"]["ends_by"], found["length"]["exact"]) == (field, False)
    if field == "max_minutes":
        assert found["time"]["training"] == 1_800
    else:
        assert found["length"]["steps"] == pytest.approx(fit(recipes.load(tree))["steps"], abs=2)
    assert main(["plan", str(path), "--output-dir", str(tmp_path / "other")]) == 0
    shown = capsys.readouterr().out
    assert "about" in shown
    assert ("the clock ends it" if field == "max_minutes" else "these tokens end it") in shown


@pytest.mark.parametrize("setting", [
    "data.train=nowhere.txt", "data.max_length=9999", "backbone.config.hidden_size=-1", "training.precision=fp16",
    "training.lr_scheduler_type=lineal", "training.lr_scheduler_kwargs={power: 2}"])
def test_what_a_run_refuses_its_plan_refuses(setting: str, text: Path, tmp_path: Path) -> None:
    said = []
    for way in (fit, planning.plan):
        with pytest.raises(LlmkitError) as raised:
            way(recipes.load(tiny("bert", text, tmp_path / "run"), [setting]))
        said.append((str(raised.value), raised.value.status))
    assert said[0] == said[1]


def test_a_model_too_large_for_memory_is_told_before_it_is_made(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(planning, "ready", None)
    monkeypatch.setattr(machine, "free_memory", lambda: 8 * 10**9)
    path = tmp_path / "recipe.yaml"
    tree = tiny("llama", text, tmp_path / "run")
    tree["backbone"]["config"] = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008,
                                  "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False}
    tree["tokenizer"]["train"]["vocab_size"] = 32_000
    path.write_text(recipes.dump(recipes.load(tree)))
    assert main(["plan", str(path)]) == 0
    shown = capsys.readouterr()
    assert "6,738,415,616" in shown.out  # Llama 2 of 7 billion
    assert "warning: it needs at least 108 GB of memory, and 8 GB are free" in shown.err
    assert main(["plan", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["speed"] is None


def test_too_little_disk_is_told(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda folder: 100_000)
    (warning,) = planning.plan(recipes.load(tiny("bert", text, tmp_path / "run")))["warnings"]
    assert warning.startswith("it needs up to")
    assert "and 100 kB are free" in warning


def test_what_a_folder_holds_already_is_told_and_stays(text: Path, tmp_path: Path) -> None:
    tree = tiny("bert", text, tmp_path / "run", save_steps=2)
    fit(recipes.load(tree))
    before = everything(tmp_path)
    (complete,) = planning.plan(recipes.load(tree))["warnings"]
    (refused,) = planning.plan(recipes.load(tree, ["seed=7"]))["warnings"]
    assert everything(tmp_path) == before
    assert "it is complete" in complete
    assert "a run would be refused" in refused
    assert "seed is 7, there 42" in refused
    (tmp_path / "run" / "summary.json").unlink()
    (going,) = planning.plan(recipes.load(tree))["warnings"]
    assert "would go on after step 4" in going


def test_a_plan_halves_micro_batches_as_the_run_would(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = short_of_memory(monkeypatch, rows=4)
    found = planning.plan(recipes.load(tiny("bert", text, tmp_path / "run")))
    assert tried[:2] == [8, 4]
    assert found["micro_batch_size"] == 4
    assert not (tmp_path / "run").exists()


def test_a_plan_changes_nothing_of_the_run(text: Path, tmp_path: Path) -> None:
    fit(recipes.load(tiny("gpt2", text, tmp_path / "alone")))
    asked = recipes.load(tiny("gpt2", text, tmp_path / "planned"))
    planning.plan(asked)
    fit(asked)
    assert losses(tmp_path / "planned") == losses(tmp_path / "alone")


def test_two_processes_plan_together(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipes.dump(recipes.load(tiny("bert", text, tmp_path / "run"))))
    both = run_in_two(["plan", str(path), "--processes", "2", "--json"], tmp_path / "said")
    assert [one.wait() for one in both] == [0, 0], both[0].said.read_text()
    found = json.loads(both[0].said.read_text().splitlines()[-1])
    assert (found["processes"], found["micro_batch_size"], found["global_batch_size"]) == (2, 4, 8)
    assert found["length"]["steps"] == 4
    assert not (tmp_path / "run").exists()
    assert both[1].said.read_text() == ""


def test_the_command_takes_what_finetune_takes(
    labelled: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    request = ["--task", "classification", "--model", str(encoder), "--data", str(labelled), "--method", "lora",
               "--set", "training.max_steps=4", "--set", "data.max_length=32"]
    assert main(["plan", *request, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output_dir"] == "runs/rows-classification-lora"
    assert found["tuning"] == "lora"
    assert list(tmp_path.iterdir()) == []
    assert main(["plan", *request]) == 0
    shown = capsys.readouterr().out
    for word in ("parameters", "the run", "4 steps", "MFU", "time", "memory", "disk", "compile"):
        assert word in shown
    assert main(["plan"]) == 2


def test_large_numbers_are_read_at_a_glance() -> None:
    assert [words(count) for count in (950, 983_040, 45.8e9, 1.2e15)] == ["950 ", "983 k", "45.8 G", "1.2 P"]
    assert [planning.size(count) for count in (1_500, 44.7e6, 1.234e9, 108e9)] == [
        "1.5 kB", "44.7 MB", "1.23 GB", "108 GB"]
