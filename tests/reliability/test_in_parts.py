"""F: a model in parts on several processes learns what whole ones learn, and goes on from any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from learning import LEARNING
from safetensors.torch import load_file

import llmkit
from llmkit.backbones.kernels import compiling
from llmkit.recipe import registry
from llmkit.system import machine
from reliability import runs
from reliability.commands import Server

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]

Tree = dict[str, Any]
IN_PARTS = {"strategy": "fsdp"}


def train(llmkit: Server, tree: Tree, processes: int, *words: object) -> Path:
    """Run a recipe in some processes; a collective that hangs is a failure, after 20 s."""
    tree["training"]["ddp_timeout"] = 20
    verb = "finetune" if "task" in tree else "pretrain"
    running = llmkit.start_all(verb, runs.write(tree), *words, processes=processes)
    ended = [one.wait(200) for one in running]
    assert [one.status for one in ended] == [0] * processes, ended[0].err
    return Path(tree["output_dir"])


def compare(run: Path, other: Path) -> None:
    """Losses, norms and metrics agree to 1e-5 of themselves; weights as far as AdamW's first steps let them."""
    for mine, theirs in zip(runs.events(run, None), runs.events(other, None), strict=True):
        timeless = mine.keys() - {*runs.TIMED, "step", "event"}
        assert {name: mine[name] for name in timeless} == pytest.approx(
            {name: theirs[name] for name in timeless}, rel=1e-5, abs=1e-6)
    for path in run.glob("*/*.safetensors"):
        ours, others = load_file(path), load_file(other / path.relative_to(run))
        assert ours.keys() == others.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", sorted(LEARNING))
def test_in_parts_it_learns_what_whole_models_learn(
    case: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """Two processes, with dropout: the same chance on both ways."""
    recipe = tree(case, max_steps=3, save_steps=3, eval_steps=None)
    usual = whole(recipe, 2)
    recipe["training"]["distributed"] = IN_PARTS
    run = train(llmkit, recipe, 2)
    compare(run, usual)
    assert runs.summary(run)["strategy"] == "fsdp"


METHODS = {"lora": {"r": 4}, "layers": {"n": 1}}
"""Options of methods."""


@pytest.mark.parametrize("method", [name for name in registry.names("tuning") if registry.find("tuning", name).shards])
def test_methods_in_parts(
    method: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = {**tree("classification", max_steps=3, save_steps=3, eval_steps=None),
              "tuning": {"method": method, **METHODS.get(method, {})}}
    usual = whole(recipe, 2)
    recipe["training"]["distributed"] = IN_PARTS
    compare(train(llmkit, recipe, 2), usual)


@pytest.mark.parametrize("changes", [
    *({"optimizer": {"name": name}} for name in registry.names("optimizers")
      if registry.find("optimizers", name)().shards and name != "adamw"),
    {"training": {"gradient_checkpointing": True}}, {"training": {"metric_for_best_model": "loss"}},
    {"training": {"async_save": True}}, {"training": {"figures": True}},
    {"distributed": {"reshard_after_forward": False}}],
    ids=lambda change: "-".join(f"{name}-{value}" for block in change.values() for name, value in block.items()))
def test_optimizers_and_options_in_parts(
    changes: Tree, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    recipe = tree("classification", max_steps=4, save_steps=2, eval_steps=2)
    recipe = {**recipe, **{name: block for name, block in changes.items() if name == "optimizer"},
              "training": {**recipe["training"], **changes.get("training", {})}}
    usual = whole(recipe, 2)
    recipe["training"]["distributed"] = {**IN_PARTS, **changes.get("distributed", {})}
    compare(train(llmkit, recipe, 2), usual)


TEACHERS: dict[str, Tree] = {
    "answers": {"cache": "never"}, "kept-answers": {}, "states": {"hidden": {"loss": "mse"}},
    "wider-states": {"hidden": {"loss": "cosine", "layers": "last"}}}
"""What of a teacher is learned; a wider one has a matrix beside the student, which trains too."""


@pytest.mark.parametrize(("case", "way"), [
    *((case, way) for case in ("causal_lm", "classification") for way in TEACHERS), ("pairs", "answers")])
def test_with_a_teacher_in_parts(
    case: str, way: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """The teacher is whole on each process, and its student in parts."""
    first = tree(case, "teacher", max_steps=2)
    if way == "wider-states":
        first["backbone"]["config"] |= {"n_embd": 96} if case == "causal_lm" else {"hidden_size": 96}
    student = tree(case, max_steps=3, save_steps=3, eval_steps=3)
    del student["tokenizer"]
    student["teacher"] = {"model": str(whole(first)), **TEACHERS[way]}
    usual = whole(student, 2)
    student["training"]["distributed"] = IN_PARTS
    compare(train(llmkit, student, 2), usual)


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"micro_batch_size": 2}],
                         ids=["plain", "computed-again", "cut"])
def test_a_mixture_of_experts_in_parts(
    changes: Tree, text: Path, llmkit: Server, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    """The loss that evens out the experts is of the whole step, on both ways; so are the figures of each layer."""
    recipe = tiny("qwen3_moe", text, tmp_path / "run", max_steps=3, save_steps=3, eval_steps=3, **changes)
    recipe["backbone"]["config"]["router_aux_loss_coef"] = 1.0
    recipe["data"]["validation"] = 0.2
    usual = whole(recipe, 2)
    recipe["training"]["distributed"] = IN_PARTS
    run = train(llmkit, recipe, 2)
    compare(run, usual)
    assert {"router_loss/0", "router_loss/1", "expert_entropy"} <= runs.events(run)[-1].keys()


@pytest.mark.parametrize(("options", "method", "far"), [
    ({"compile": True}, "full", 1e-5), ({"compile": True, "gradient_checkpointing": True}, "full", 1e-5),
    ({"compile": True}, "lora", 1e-5), ({"precision": "bf16"}, "full", 1e-3), ({"precision": "bf16"}, "prefix", 1e-3)],
    ids=["compiled", "compiled-again", "compiled-lora", "bf16", "bf16-prefix"])
def test_compiled_layers_and_16_bits_in_parts(
    options: Tree, method: str, far: float, text: Path, tmp_path: Path
) -> None:
    """Graphs are made, and run as they are: no compiler is needed. In bf16 both ways round otherwise."""
    def fit(recipe: Tree) -> None:
        compiling.BACKEND = "eager"  # in a child of its own
        llmkit.fit(recipe)

    for strategy in ("ddp", "fsdp"):
        recipe = {**tiny("gpt2", text, tmp_path / strategy, max_steps=3, ddp_timeout=20,
                         distributed={"strategy": strategy}), "tuning": {"method": method}}
        recipe["data"]["validation"] = 0.2
        recipe["training"] |= options
        both = runs.both(tmp_path / strategy, lambda rank, recipe=recipe: fit(recipe))
        assert runs.ended(both) == [0, 0], both[0].said.read_text()
    whole, parts = (runs.events(tmp_path / strategy, None) for strategy in ("ddp", "fsdp"))
    assert len(whole) == len(parts) == 5
    for mine, theirs in zip(parts, whole, strict=True):
        for name in {"loss", "grad_norm"} & theirs.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=far)
    if "compile" in options:
        assert runs.summary(tmp_path / "fsdp")["graphs"]["training"] > 0


def test_parts_take_less_memory_than_whole_models(text: Path, tmp_path: Path) -> None:
    """The peak of the second of two processes, libraries included, is at most three quarters of DDP's.

    59 million numbers: weights, gradients and AdamW's two means take 950 MB under DDP, whose buckets hold gradients
    too, and 475 in parts, with some layers' weights and gradients whole. The first process gathers the model at the
    end.
    """
    def fit(recipe: Tree, rank: int) -> None:
        llmkit.fit(recipe)
        (tmp_path / f"{recipe['output_dir']}.{rank}").write_text(str(machine.peak_memory()))

    most = dict[str, int]()
    for strategy in ("ddp", "fsdp"):
        recipe = tiny("gpt2", text, tmp_path / strategy, max_steps=3, ddp_timeout=60, micro_batch_size=2,
                      global_batch_size=4, distributed={"strategy": strategy})
        recipe["backbone"]["config"] |= {"n_layer": 12, "n_embd": 640}
        both = runs.both(tmp_path / strategy, lambda rank, recipe=recipe: fit(recipe, rank))
        assert runs.ended(both) == [0, 0], both[0].said.read_text()
        most[strategy] = int((tmp_path / f"{strategy}.1").read_text())
    assert most["fsdp"] < 0.75 * most["ddp"], most


@pytest.mark.parametrize("ways", [
    ((2, "fsdp"), (1, "ddp"), (3, "fsdp")), ((1, "ddp"), (2, "fsdp")), ((2, "fsdp"), (2, "ddp")),
    ((2, "ddp"), (2, "fsdp"))], ids=lambda ways: "-".join(f"{way[0]}-{way[1]}" for way in ways))
def test_it_goes_on_from_any_number_of_processes(
    ways: tuple[tuple[int, str], ...], llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """A part of a run in each way, beside its steps: the rows and losses of a run that was never stopped."""
    recipe = tree("causal_lm", still=True, max_steps=6, save_steps=1, eval_steps=3, global_batch_size=12,
                  micro_batch_size=2, lr_scheduler_type="constant")
    usual = whole(recipe, 1)
    recipe["training"]["async_save"] = True
    for i, (processes, strategy) in enumerate(ways):
        recipe["training"] |= {"max_steps": 6 * (i + 1) // len(ways), "distributed": {"strategy": strategy}}
        run = train(llmkit, recipe, processes, *(["--resume", "must"] if i else []))
    steps = {event["step"]: event["loss"] for event in runs.events(usual)}
    assert {event["step"]: event["loss"] for event in runs.events(run)} == pytest.approx(steps, rel=1e-6)
    for name, value in load_file(run / "model" / "model.safetensors").items():
        torch.testing.assert_close(value, load_file(usual / "model" / "model.safetensors")[name], rtol=1e-4, atol=1e-5)


def test_groups_of_processes_with_the_whole_model_each(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """Two groups of two: dp_replicate_size 2."""
    recipe = tree("masked_lm", still=True, max_steps=4, save_steps=2, eval_steps=2, micro_batch_size=4)
    usual = whole(recipe, 1)
    recipe["training"]["distributed"] = {**IN_PARTS, "dp_replicate_size": 2}
    compare(train(llmkit, recipe, 4), usual)


def test_a_kill_costs_what_was_not_saved(
    llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """The first process is killed in the second half, and the other can't go on: the end is the same."""
    recipe = tree("causal_lm", max_steps=12, save_steps=3)
    recipe["training"]["distributed"] = IN_PARTS
    usual = whole(recipe, 2)
    running = llmkit.start_all("pretrain", runs.write(recipe), processes=2, signal_after=(8, 9))
    assert running[0].wait(200).status == -9
    assert running[1].wait(200).status != 0
    run = train(llmkit, recipe, 2, "--resume", "must")
    assert runs.events(run, None)[-1]["loss"] == runs.events(usual, None)[-1]["loss"]
    for path in sorted((usual / "model").glob("*.safetensors")):
        assert all(torch.equal(value, load_file(run / "model" / path.name)[name])
                   for name, value in load_file(path).items())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("count", range(1, 11))
def test_a_kill_at_any_rename_of_checkpoints_in_parts_costs_what_was_not_saved(
    count: int, when: str, llmkit: Server, tree: Callable[..., Tree], whole: Callable[..., Path],
) -> None:
    """F7: a checkpoint in, an older one out, by the first of two processes: it goes on from one that is whole."""
    recipe = tree("causal_lm", max_steps=12, save_steps=2, save_total_limit=1)
    recipe["training"]["distributed"] = IN_PARTS
    usual, run = whole(recipe, 2), Path(recipe["output_dir"])
    running = llmkit.start_all("pretrain", runs.write(recipe), processes=2,
                               kill_at_rename=(count, str(run / "checkpoints"), when))
    assert running[0].wait(200).status == -9
    assert running[1].wait(200).status != 0
    train(llmkit, recipe, 2)
    assert runs.events(run, None)[-1]["loss"] == runs.events(usual, None)[-1]["loss"]
    # killed between the last checkpoint and the removal of the one before, the run has nothing left to save
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[-1] == "step-00000012"
    for path in sorted((usual / "model").glob("*.safetensors")):
        assert all(torch.equal(value, load_file(run / "model" / path.name)[name])
                   for name, value in load_file(path).items())
