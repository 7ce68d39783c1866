"""`llmkit plan --on`: what is reckoned of a whole run, and that what it names as a way out is one."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import stories, tiny

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.cli.preparing.elsewhere import span
from llmkit.planning.clusters import remedies as ways_out
from llmkit.planning.clusters.amounts import amounts
from llmkit.planning.clusters.anatomy import anatomy
from llmkit.planning.clusters.gpus import cluster
from llmkit.planning.clusters.outlook import Assumed, outlook
from llmkit.planning.settle import settle
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.system.machine import size
from llmkit.tuning.base import Setting

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def tree(text: Path, tmp_path: Path) -> dict[str, Any]:
    made = tiny("llama", text, tmp_path / "run", max_steps=1000)
    made["backbone"] = {"family": "llama", "size": "small"}
    made["data"]["max_length"] = 1024
    made["training"] |= {"global_batch_size": 64, "precision": "auto", "micro_batch_size": "auto", "save_steps": 100}
    return made


def reckoned(tree: dict[str, Any], on: str, given: Assumed | None = None, **options: Any) -> dict[str, Any]:
    return outlook(recipes.load(tree), cluster(on, **options), given or Assumed(), NOW)


def chosen(found: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in found["strategies"] if one["strategy"] == found["strategy"])


# ---- what is said ----


def test_speed_time_end_and_cost_are_those_of_the_formulas(tree: dict[str, Any]) -> None:
    found = reckoned(tree, "8xA100", Assumed(mfu=0.5, price=2.0, disk=2e9))
    weights = found["parameters"]
    token = 6 * weights + 12 * 8 * 512 * 1024
    assert found["flops_per_token"] == token
    speed = 8 * 0.5 * 312e12 / token
    assert chosen(found)["tokens_per_second"] == pytest.approx(speed)
    assert found["length"] == {"ends_by": "max_steps", "steps": 1000, "exact": True, "tokens_per_step": 64 * 1024,
                               "tokens": 64 * 1024 * 1000, "epochs": found["length"]["epochs"]}
    assert found["checkpoint"]["bytes"] == 12 * weights
    assert found["checkpoint"]["count"] == 10
    seconds = 64 * 1024 * 1000 / speed + 10 * 12 * weights / 2e9
    assert found["time"]["total"] == pytest.approx(seconds)
    assert found["cost"] == pytest.approx(8 * 2.0 * seconds / 3600)
    assert datetime.fromisoformat(found["ends"]).timestamp() - NOW.timestamp() == pytest.approx(seconds, abs=60)


def test_beside_steps_a_checkpoint_waits_for_the_one_before_and_its_copy_is_said(tree: dict[str, Any]) -> None:
    """Ten checkpoints of 12 bytes a number, each after 100 steps; the last one is written while the run waits."""
    tree["training"]["async_save"] = True
    quick, slow = (reckoned(tree, "8xA100", Assumed(disk=disk)) for disk in (1e9, 1e7))
    each = 12 * quick["parameters"] / 1e9
    assert quick["checkpoint"]["copied"] == 12 * quick["parameters"]
    assert quick["time"]["checkpoints"] == pytest.approx(each)
    steps = 100 * chosen(slow)["seconds_per_step"]
    assert 100 * each > steps
    assert slow["time"]["checkpoints"] == pytest.approx(9 * (100 * each - steps) + 100 * each)
    assert any(f"async_save: {size(12 * quick['parameters'])} of main memory are taken by the first process" in note
                for note in quick["notes"])
    tree["training"]["save_steps"] = 1000
    alone = reckoned(tree, "8xA100")
    assert alone["checkpoint"]["copied"] == 0
    assert not any("async_save" in note for note in alone["notes"])


def test_every_strategy_is_compared_and_the_recipes_own_is_taken(tree: dict[str, Any]) -> None:
    assert [one["strategy"] for one in reckoned(tree, "1xH100")["strategies"]] == ["one"]
    assert [one["strategy"] for one in reckoned(tree, "8xH100")["strategies"]] == ["one", "ddp", "fsdp"]
    found = reckoned(tree, "16xH100")
    assert [one["strategy"] for one in found["strategies"]] == ["one", "ddp", "fsdp", "hybrid"]
    assert found["strategy"] == "ddp"
    states = {one["strategy"]: one["memory"]["optimizer"] for one in found["strategies"]}
    whole = 8 * found["parameters"]
    assert states == {"one": whole, "ddp": whole, "fsdp": whole / 16, "hybrid": whole / 8}
    assert reckoned(tree, "16xH100", Assumed(strategy="hybrid"))["strategy"] == "hybrid"
    with pytest.raises(RequestError, match=r"--strategy hybrid: 8 H100 in a machine can't be used so; there is: one,"):
        reckoned(tree, "8xH100", Assumed(strategy="hybrid"))


def test_computing_again_takes_less_memory_and_more_time(tree: dict[str, Any]) -> None:
    plain = reckoned(tree, "8xH100")
    tree["training"] |= {"gradient_checkpointing": True, "micro_batch_size": chosen(plain)["micro_batch_size"]}
    again = reckoned(tree, "8xH100")
    assert chosen(again)["memory"]["activations"] < 0.3 * chosen(plain)["memory"]["activations"]
    assert (plain["assumed"]["mfu"], again["assumed"]["mfu"]) == (0.4, pytest.approx(0.3))
    assert again["time"]["training"] == pytest.approx(plain["time"]["training"] / 0.75)


def test_an_optimizer_and_an_adapter_hold_what_they_say(tree: dict[str, Any]) -> None:
    weights = reckoned(tree, "1xH100")["parameters"]
    assert chosen(reckoned({**tree, "optimizer": {"name": "sgd"}}, "1xH100"))["memory"]["optimizer"] in (0, 4 * weights)
    found = reckoned({**tree, "tuning": {"method": "lora"}}, "1xH100")
    trained = found["trainable_parameters"]
    assert 0 < trained < weights / 50
    memory = chosen(found)["memory"]
    assert (memory["gradients"], memory["optimizer"]) == (4 * trained, 8 * trained)
    assert memory["weights"] == 4 * found["parameters"]


def test_logits_that_are_not_made_in_chunks_are_counted(tree: dict[str, Any]) -> None:
    tree["training"]["micro_batch_size"] = 8
    tree["tokenizer"]["train"]["vocab_size"] = 50_000
    chunks = chosen(reckoned(tree, "1xH100"))["memory"]["logits"]
    tree["training"]["shortcuts"] = []
    whole = chosen(reckoned(tree, "1xH100"))["memory"]["logits"]
    assert whole == 8 * 1024 * 50_000 * 12
    assert chunks < whole / 5


def test_chunks_of_logits_are_those_of_a_gpu_and_not_of_the_machine_that_plans(tree: dict[str, Any]) -> None:
    """64 Mi logits in bf16, in fp32 and as their softmax: 2 + 4 + 4 bytes; and the fp32 gradient of the table."""
    tree["tokenizer"]["train"]["vocab_size"] = 50_000
    tree["training"] |= {"micro_batch_size": 8, "global_batch_size": 512}
    model = anatomy(settle(recipes.load(tree)))
    table = 4 * 50_000 * model.width
    assert model.vocabulary == 50_000
    assert chosen(reckoned(tree, "64xH100"))["memory"]["logits"] == 10 * 64 * 2**20 + table
    tree["training"]["micro_batch_size"] = 1  # 1,024 tokens have fewer logits than a chunk
    assert chosen(reckoned(tree, "64xH100"))["memory"]["logits"] == 10 * 1024 * 50_000 + table
    tree["training"]["precision"] = "fp32"
    assert chosen(reckoned(tree, "64xH100"))["memory"]["logits"] == 12 * 1024 * 50_000 + table


def test_numbers_are_those_that_the_gpu_multiplies(tree: dict[str, Any]) -> None:
    assert reckoned(tree, "8xH100")["precision"] == "bf16"
    assert reckoned(tree, "8xT4")["precision"] == "fp16"
    tree["training"]["precision"] = "bf16"
    with pytest.raises(RequestError, match=r"training.precision: a T4 doesn't multiply bf16; use fp16 or fp32."):
        reckoned(tree, "8xT4")
    tree["training"]["precision"] = "fp32"
    assert chosen(reckoned(tree, "8xA100"))["tokens_per_second"] == pytest.approx(
        chosen(reckoned({**tree, "training": {**tree["training"], "precision": "bf16"}}, "8xA100"))
        ["tokens_per_second"] / 2)


def test_t5_is_reckoned_in_fp32_where_there_is_no_bf16(text: Path, tmp_path: Path) -> None:
    tree = tiny("t5", text, tmp_path / "run")
    tree["training"]["precision"] = "auto"
    assert reckoned(tree, "4xT4")["precision"] == "fp32"
    tree["training"]["precision"] = "fp16"
    with pytest.raises(RequestError, match=r"training.precision: T5's activations overflow in fp16"):
        reckoned(tree, "4xT4")


def test_rows_that_so_many_gpus_cant_share_are_refused_with_a_number_that_they_can(tree: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"64 rows can't be shared by 48 GPUs; make it 48 or 96, as --set"):
        reckoned(tree, "48xH100")


@pytest.mark.parametrize(("given", "said"), [
    ({"mfu": 40.0}, "--mfu 40: is a share"), ({"mfu": 0.0}, "--mfu 0:"), ({"price": -1.0}, "--price -1:"),
    ({"price": float("nan")}, "--price nan:")])
def test_figures_that_cant_be_are_refused(given: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        Assumed(**given)  # type: ignore[arg-type]


# ---- what to change ----


@pytest.mark.parametrize(("memory", "named"), [
    ("2.5GB", [["training.micro_batch_size=1"], ["training.gradient_checkpointing=true"]]),
    ("1.5GB", [["training.micro_batch_size=1", "training.distributed={strategy: fsdp}"],
               ["optimizer=adamw_8bit", "training.micro_batch_size=1", "training.gradient_checkpointing=true"]]),
])
def test_what_is_named_as_a_way_out_fits_when_it_is_done(
    memory: str, named: list[list[str]], tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several changes those that change no loss come first, and no more of them than it takes."""
    from llmkit.optimizers.adamw_8bit import AdamW8bit

    monkeypatch.setattr(AdamW8bit, "check", lambda self: None)  # installed or not
    tree["training"]["micro_batch_size"] = 8
    found = reckoned(tree, "8xH100", memory=memory)
    assert not found["fits"]
    assert [one["set"] for one in found["remedies"]] == named
    for one in found["remedies"]:
        after = outlook(recipes.load(tree, one["set"]), cluster("8xH100", memory), Assumed(), NOW)
        assert after["fits"]
        assert chosen(after)["memory"]["total"] == pytest.approx(one["memory"])
    assert any("a GPU are needed" in warning for warning in found["warnings"])


def test_where_all_fits_nothing_is_to_be_changed(tree: dict[str, Any]) -> None:
    found = reckoned(tree, "8xH100")
    assert (found["fits"], found["remedies"], found["warnings"]) == (True, [], [])


def test_where_nothing_helps_none_is_named(tree: dict[str, Any]) -> None:
    assert reckoned(tree, "1xH100", memory="1.1GB")["remedies"] == []


def test_parts_are_offered_to_recipes_whose_optimizer_bears_them(tree: dict[str, Any]) -> None:
    """Among the ways out for AdamW; for adafactor, which needs each tensor whole, the table says so."""
    assert all(one["available"] for one in reckoned(tree, "8xH100")["strategies"])
    assert ways_out.SHARDED in {setting for some in ways_out.candidates(
        recipes.load(tree), case_of(tree, "8xH100")) for setting in some}
    tree["optimizer"] = {"name": "adafactor"}
    lines = {one["strategy"]: one["available"] for one in reckoned(tree, "8xH100")["strategies"]}
    assert lines == {"one": True, "ddp": True, "fsdp": False}


def test_numbers_whose_scale_is_of_whole_gradients_cannot_lie_in_parts(tree: dict[str, Any]) -> None:
    """fp16, where the recipe asks for it, or the GPU has nothing else; the run would refuse it too."""
    lines = {one["strategy"]: one["available"] for one in reckoned(tree, "8xV100")["strategies"]}
    assert lines == {"one": True, "ddp": True, "fsdp": False}
    tree["training"]["distributed"] = {"strategy": "fsdp"}
    for precision, on in (("auto", "8xV100"), ("fp16", "8xH100")):
        tree["training"]["precision"] = precision
        with pytest.raises(RequestError, match=r"fsdp: the scale of fp16 is of whole gradients\. Use .*bf16 or fp32"):
            reckoned(tree, on)
    tree["training"]["precision"] = "fp32"
    assert reckoned(tree, "8xV100")["strategy"] == "fsdp"


def case_of(tree: dict[str, Any], on: str) -> Any:
    from llmkit.planning.clusters.outlook import case

    return case(recipes.load(tree), cluster(on), Assumed())


# ---- how much there is ----


def counted(tree: dict[str, Any]) -> Any:
    tree["training"] |= {"micro_batch_size": 1, "precision": "fp32"}
    return amounts(settle(recipes.load(tree)))


def test_rows_of_text_are_its_bytes_by_four(tree: dict[str, Any], text: Path) -> None:
    found = counted(tree)
    letters = sum(len(story) for story in stories(120))
    assert found.train.tokens == letters / 4
    assert found.train.rows == -(-letters // 4 // 1024) or found.train.rows == -(-letters / 4 // 1024)
    tree["data"]["validation"] = 0.25
    assert counted(tree).validation.tokens == letters / 16


def test_a_long_file_is_estimated_by_its_size(tree: dict[str, Any], tmp_path: Path) -> None:
    lines = stories(5_000)
    (tmp_path / "long.txt").write_text("\n".join(lines))
    tree["data"] |= {"train": str(tmp_path / "long.txt"), "document": "line"}
    found = counted(tree)
    assert not found.exact
    assert found.train.tokens == pytest.approx(sum(map(len, lines)) / 4, rel=0.03)


def test_rows_of_a_task_are_counted(labelled: Path, tmp_path: Path) -> None:
    tree = tiny("bert", labelled, tmp_path / "run")
    del tree["objective"], tree["training"]["max_steps"]
    tree["task"] = {"name": "classification"}
    tree["training"]["num_train_epochs"] = 2
    tree["data"]["validation"] = 0.25
    found = counted(tree)
    assert (found.train.rows, found.validation.rows, found.exact) == (72, 24, True)
    tree["data"]["shots"] = 8  # two labels
    assert counted(tree).train.rows == 16
    said = reckoned(tree, "1xH100")["length"]
    assert (said["steps"], said["ends_by"]) == (4, "num_train_epochs")  # 2 x 16 rows, 8 a step


# ---- what trains, without weights ----


@pytest.mark.parametrize("method", [name for name in registry.names("tuning") if name not in ("head", "peft")])
def test_what_trains_is_counted_without_weights(method: str, labelled: Path, tmp_path: Path) -> None:
    """Against the method applied to a real model of the same config."""
    tree = tiny("bert", labelled, tmp_path / "run")
    del tree["objective"]
    tree |= {"task": {"name": "classification"}, "tuning": {"method": method}}
    tree["training"] |= {"micro_batch_size": 1, "precision": "fp32"}
    settled = settle(recipes.load(tree))
    from llmkit.planning.settle import weightless

    real = getattr(transformers, settled.head).from_config(weightless(settled).config)
    setting = Setting(settled.family, settled.head, ("classifier",), steps=3, epoch=1.0)
    tuned = settled.recipe.tuning.apply(real, setting)
    found = anatomy(settled)
    assert found.trained == sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
    assert found.parameters == sum(parameter.numel() for parameter in tuned.parameters())


# ---- the command ----


def test_the_command_reckons_and_takes_no_step(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from llmkit.training.trial import rehearsal

    monkeypatch.setattr(rehearsal, "plan", lambda request: pytest.fail("a step was measured"))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    assert main(["plan", str(path), "--on", "16xH100", "--price", "2.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cluster"]["machines"] == 2
    assert found["cluster"]["source"] == "NVIDIA H100 datasheet: SXM"
    own = ["--on", "2", "--gpu-memory", "1.7GB", "--flops", "1e14", "--bandwidth", "10Gb/s"]
    assert main(["plan", str(path), *own]) == 0
    shown = capsys.readouterr()
    assert "nothing was measured" in shown.out
    assert re.search(r"^ddp +[\d.]+ GB +too much +", shown.out, re.MULTILINE)
    assert "--set training.gradient_checkpointing=true" in shown.out
    assert "warning: ddp:" in shown.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("words", "said"), [
    (["--price", "3"], "--price: is for GPUs that aren't here; say which, as --on 8xH100."),
    (["--on", "8xH100", "--processes", "4"], "--processes: --on says how many GPUs there are"),
    (["--on", "8xH100", "--", "--num_machines", "2"], "--on: starts no processes"),
    (["--on", "8xH100", "--disk-bandwidth", "fast"], "--disk-bandwidth fast: isn't a figure that can be read"),
    (["--on", "8xH100", "--strategy", "zero"], "--strategy zero"),
])
def test_words_that_mean_nothing_are_refused(
    words: list[str], said: str, tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    assert main(["plan", str(path), *words]) == 2
    assert f"llmkit: error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "words"), [
    (1, "1 s"), (600, "10 min"), (4000, "1 h 07 min"), (7140, "1 h 59 min"), (1e6, "11.6 days"), (1e9, "31.7 years")])
def test_a_span_is_said_in_the_unit_that_people_would_use(seconds: float, words: str) -> None:
    assert span(seconds) == words
