"""What auto becomes: micro-batches that fit, a precision the machine is fast in, and compiled layers where they pay."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import random_encoder, stories, tiny
from safetensors.torch import load_file
from short import losses, short_of_memory
from transformers import AutoConfig

from llmkit import recipe as recipes
from llmkit.backbones.kernels.privates import onednn_multiplies_bf16
from llmkit.inference.writing.opening import numbers
from llmkit.planning import choices
from llmkit.planning.settle import settle
from llmkit.recipe import registry
from llmkit.system import machine
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.training.fit import fit

GB = 10**9


def a_model(parameters: int = 0, activations: int = 1_000, attention: int = 0) -> choices.Size:
    return choices.Size(parameters, 256, activations, attention, 16 * parameters)


# ---- how many rows at once ----


@pytest.mark.parametrize(("share", "length", "model", "memory", "rows", "why"), [
    (16, 128, a_model(), 8 * GB, 16, "a process's whole share of a step"),
    (64, 128, a_model(), 8 * GB, 32, "up to 4,096 tokens at once are quickest"),
    (48, 128, a_model(), 8 * GB, 24, "up to 4,096 tokens at once are quickest"),  # 32 doesn't divide 48
    (8, 8_192, a_model(), 8 * GB, 1, "up to 4,096 tokens at once are quickest"),
    # BERT-large has 340 million parameters: 5.4 of 8 GB are for its state, half of the rest holds 1.28 GB
    (32, 128, a_model(340_000_000, 1_500_000), 8 * GB, 4, "of 8.0 GB of memory, 1.3 GB are for activations"),
    (32, 128, a_model(340_000_000, 1_500_000), 64 * GB, 32, "a process's whole share of a step"),
    (32, 128, a_model(10**10, 1_500_000), 64 * GB, 1, "of 64.0 GB of memory, 0.0 GB are for activations"),
])
def test_a_micro_batch_is_what_is_quick_and_fits(
    share: int, length: int, model: choices.Size, memory: int, rows: int, why: str) -> None:
    assert choices.micro_batch_size(share, length, model, False, memory) == (rows, why)


def test_an_adapter_leaves_room_for_more_rows() -> None:
    model = a_model(400_000_000, 1_000_000)  # 1.6 GB of weights, 6.4 GB with gradients and optimizer
    assert choices.micro_batch_size(32, 128, model, False, 8 * GB)[0] == 4
    assert choices.micro_batch_size(32, 128, model, True, 8 * GB)[0] == 16


def test_long_rows_take_more_where_attentions_weights_are_kept() -> None:
    model = a_model(10**6, 100_000, attention=1_000)
    assert model.row(1_000) == 1_000 * (100_000 + 1_000_000)
    assert choices.micro_batch_size(4, 1_000, model, False, 4 * GB)[0] == 1
    assert choices.micro_batch_size(4, 1_000, a_model(10**6, 100_000), False, 4 * GB)[0] == 4


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "gpt2", "llama", "t5", "bart", "deberta"])
def test_what_a_model_keeps_for_the_backward_pass_is_known_to_a_factor_of_two(
    family: str, text: Path, tmp_path: Path) -> None:
    """Against the tensors that autograd really keeps in a step of the run."""
    tree = tiny(family, text, tmp_path / "run", max_steps=1)
    tree["backbone"]["config"] = {}
    settled = settle(recipes.load(tree))
    from accelerate import Accelerator

    from llmkit.system.signals import Stopping
    from llmkit.training.folder.run_folder import RunFolder
    from llmkit.training.log import Log
    from llmkit.training.prepare import material, ready
    from llmkit.training.spread.meeting import Meeting
    from llmkit.training.step import Stepper

    session = ready(settled, material(settled, Meeting()), Meeting(), Accelerator(cpu=True),
                    RunFolder(tmp_path / "run"), Stopping(), 0.0)
    own = {parameter.untyped_storage().data_ptr() for parameter in session.learner.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = next(Stepper(session, Log(session)).batches())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        session.wrapped(batch)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    rows, length = batch["input_ids"].shape
    assert (0.25 if family == "deberta" else 0.5) < rows * settled.size.row(length) / measured < 2
    trained = sum(parameter.numel() for parameter in session.learner.parameters())
    assert settled.size.parameters == pytest.approx(trained, rel=0.1)  # the text has fewer words than were asked for


def test_memory_is_what_a_container_may_use(tmp_path: Path) -> None:
    assert machine._limits(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert machine._limits(tmp_path) == []
    (tmp_path / "memory.max").write_text("5000\n")
    assert machine._limits(tmp_path) == [(5000, 1000)]
    assert 0 < machine.free_memory() <= machine.memory()


def test_out_of_memory_halves_the_micro_batch_and_changes_no_loss(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fit(recipes.load(tiny("bert", text, tmp_path / "roomy", still=True)))
    tried = short_of_memory(monkeypatch, rows=3)
    with caplog.at_level(logging.INFO, "llmkit"):
        fit(recipes.load(tiny("bert", text, tmp_path / "short", still=True)))
    assert tried[:3] == [8, 4, 2]
    assert set(tried[2:]) == {2}
    assert "step 1: micro-batches of 8 rows don't fit in memory; going on with 4, which changes no loss" in caplog.text
    assert losses(tmp_path / "short") == pytest.approx(losses(tmp_path / "roomy"), rel=1e-5)
    assert recipes.load(tmp_path / "short" / "recipe.yaml").training.micro_batch_size == 2


def test_memory_that_ends_in_the_optimizers_step_ends_the_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some weights have moved by then: the same step again would move them twice."""
    usual, asked = torch.optim.AdamW.step, []

    def step(self: Any, *rest: Any, **more: Any) -> Any:
        asked.append(True)
        usual(self, *rest, **more)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(RequestError, match=r"step 1: what the optimizer keeps .*isn't tried again"):
        fit(recipes.load(tiny("bert", text, tmp_path / "short", still=True, logging_steps=2)))
    assert len(asked) == 1
    assert not list((tmp_path / "short" / "checkpoints").glob("step-*"))


def test_a_backward_pass_that_fails_in_the_middle_counts_once(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are summed up there already."""
    from llmkit.training.spread.ddp import DataParallel

    fit(recipes.load(tiny("bert", text, tmp_path / "roomy", still=True, logging_steps=2)))
    usual, failed = DataParallel.clip, []

    def clip(self: Any, *rest: Any) -> Any:
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return usual(self, *rest)

    monkeypatch.setattr(DataParallel, "clip", clip)
    fit(recipes.load(tiny("bert", text, tmp_path / "short", still=True, logging_steps=2)))
    assert failed
    assert losses(tmp_path / "short") == pytest.approx(losses(tmp_path / "roomy"), rel=1e-5)


def test_rows_that_a_recipe_asks_for_are_not_made_fewer(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, rows=3)
    with pytest.raises(RequestError, match=r"micro_batch_size: this device's memory doesn't hold 4 rows of 32 tok"):
        fit(recipes.load(tiny("bert", text, tmp_path / "run", micro_batch_size=4)))


def test_a_resumed_run_keeps_its_micro_batches(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout depends on them: where memory is short at first and not later, a resumed run must not grow."""
    folder = tmp_path / "run"
    tree = tiny("bert", text, folder, save_steps=2, lr_scheduler_type="constant")
    with pytest.MonkeyPatch.context() as patch:
        short_of_memory(patch, rows=2)
        fit(recipes.load({**tree, "training": {**tree["training"], "max_steps": 2}}))
    tried = short_of_memory(monkeypatch, rows=8)
    fit(recipes.load(tree))
    assert set(tried) == {2}


def test_processes_share_the_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 8 * GB)
    assert machine.memory_each() == 8 * GB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert machine.memory_each() == 2 * GB
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # each has a GPU of its own
    assert machine.memory_each() == 8 * GB


# ---- which numbers ----


def test_a_precision_is_chosen_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "cpu_multiplies_bf16", lambda: False)
    assert choices.precision(1024) == ("fp32", "this CPU has no instructions for bf16")
    monkeypatch.setattr(choices, "cpu_multiplies_bf16", lambda: True)
    assert choices.precision(choices.WIDTH - 1)[0] == "fp32"
    assert choices.precision(choices.WIDTH)[0] == "bf16"


CARDS = {"P100": ((6, 0), False), "V100": ((7, 0), False), "T4": ((7, 5), False), "RTX 2080": ((7, 5), False),
         "A100": ((8, 0), True), "RTX 3060": ((8, 6), True), "H100": ((9, 0), True)}
"""Of each its compute capability, and whether it multiplies bf16 itself."""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have torch believe that a card is there."""
    def there(name: str) -> None:
        capability, bf16 = CARDS[name]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16)
    return there


@pytest.mark.parametrize(("name", "usual", "t5"), [
    ("P100", "fp32", "fp32"), ("V100", "fp16", "fp32"), ("T4", "fp16", "fp32"), ("RTX 2080", "fp16", "fp32"),
    ("A100", "bf16", "bf16"), ("RTX 3060", "bf16", "bf16"), ("H100", "bf16", "bf16")])
def test_a_gpu_trains_in_what_it_multiplies_itself(name: str, usual: str, t5: str, card: Callable[[str], None]) -> None:
    card(name)
    for family, wanted in (("bert", usual), ("gpt2", usual), ("t5", t5), ("umt5", t5)):
        chosen, why = choices.precision(64, registry.find("backbones", family))
        assert chosen == wanted, why
        choices.check_precision(chosen, registry.find("backbones", family))


@pytest.mark.parametrize(("name", "usual"), [("P100", "float32"), ("T4", "float16"), ("A100", "bfloat16")])
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_gpu_writes_in_what_it_multiplies_itself(
    name: str, usual: str, kind: str, card: Callable[[str], None], tmp_path: Path) -> None:
    card(name)
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    assert numbers(tmp_path) == ("float32" if (kind, usual) == ("t5", "float16") else usual, "cuda")


def test_a_torch_without_onednn_has_no_fast_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())  # as on macOS with ARM
    assert not onednn_multiplies_bf16()
    assert choices.precision(1024) == ("fp32", "this CPU has no instructions for bf16")


def test_what_was_chosen_is_said_once_each(text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = tiny("bert", text, tmp_path / "run", max_steps=1)
    with caplog.at_level(logging.INFO, "llmkit"):
        fit(recipes.load(tree))
    said = [message for message in caplog.messages if message.startswith(("precision", "micro_batch_size", "compile"))]
    assert said == ["micro_batch_size 8: a process's whole share of a step",
                    "compile false: on a CPU compiling takes minutes and rarely saves them"]


# ---- compiled or not ----


@pytest.mark.parametrize(("name", "triton", "compiler", "missing"), [
    ("A100", True, True, None), ("P100", True, True, "compute capability 7.0"), ("T4", False, True, "triton"),
    ("A100", True, False, "a C compiler, and there is no gcc or clang or cc")])
def test_on_a_gpu_compiling_needs_more_than_the_card(
    name: str, triton: bool, compiler: bool, missing: str | None, card: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch) -> None:
    card(name)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(choices, "find_spec", lambda package: object() if triton else None)
    monkeypatch.setattr(choices.shutil, "which", lambda program: f"/usr/bin/{program}" if compiler else None)
    chosen, why = choices.compiled(recipes.Training(max_steps=5_000), registry.find("backbones", "bert"))
    assert (chosen, missing or "long enough to earn it") == (missing is None, missing or "long enough to earn it")
    assert (missing or "long enough to earn it") in why
    if missing:
        with pytest.raises(RequestError, match=missing):
            choices.check_compiled(True, registry.find("backbones", "bert"))


@pytest.mark.parametrize(("name", "memory", "compiler", "precision", "rows", "compiled"), [
    ("A100", 85, True, "bf16", 32, True), ("H100", 85, True, "bf16", 32, True),
    ("RTX 3060", 12.6, True, "bf16", 4, True), ("T4", 15.8, True, "fp16", 4, True),
    ("P100", 17, True, "fp32", 4, False), ("A100", 85, False, "bf16", 32, False), ("MPS", 16, True, "fp32", 4, False)])
def test_what_a_card_decides(
    name: str, memory: float, compiler: bool, precision: str, rows: int, compiled: bool,
    card: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT-large, 340 million weights: 5.4 GB of state, rows of 512 tokens with 0.77 GB of activations each.

    At once are 16,384 tokens on a GPU, 4,096 on a CPU, where half of what the state leaves has room for them.
    """
    bert = registry.find("backbones", "bert")
    if name == "MPS":
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    else:
        card(name)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(choices, "find_spec", lambda package: object())
    monkeypatch.setattr(choices.shutil, "which", lambda program: f"/usr/bin/{program}" if compiler else None)
    large = a_model(340_000_000, 1_500_000)
    assert choices.precision(1024, bert)[0] == precision
    assert choices.micro_batch_size(256, 512, large, False, int(memory * GB))[0] == rows
    assert choices.compiled(recipes.Training(max_steps=5_000), bert)[0] is compiled


@pytest.mark.parametrize(("cores", "processes", "count"), [(1, 1, 0), (2, 1, 1), (16, 1, 4), (16, 4, 3), (8, 8, 0)])
def test_on_a_gpu_other_processes_prepare_batches_where_cores_are_left(
    cores: int, processes: int, count: int, card: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choices.machine, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(choices, "get_start_method", lambda: "fork")
    assert choices.workers() == (0, "the cores train")
    card("A100")
    assert choices.workers()[0] == count
    monkeypatch.setattr(choices, "get_start_method", lambda: "spawn")
    assert choices.workers() == (0, "this system starts processes anew, each with libraries of its own")


def test_on_a_gpu_long_runs_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    bert = registry.find("backbones", "bert")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choices, "lacks_compiler", lambda: None)
    for text, long in ((4 * 17_000_000, True), (4 * 16_000_000, False)):  # of three passes, 50 M tokens
        assert choices.compiled(recipes.Training(num_train_epochs=3), bert, text)[0] is long
        assert choices.compiled(recipes.Training(), bert, text)[0] is long
        assert choices.compiled(recipes.Training(max_steps=10), bert, text)[0] is False
    assert choices.compiled(recipes.Training(max_steps=1_000), bert)[0] is True
    assert choices.compiled(recipes.Training(max_steps=999), bert)[0] is False
    assert choices.compiled(recipes.Training(max_minutes=60), bert)[0] is True
    assert choices.compiled(recipes.Training(num_train_epochs=3), bert)[0] is False


def test_without_a_compiler_nothing_is_compiled(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RequestError, match=r"a C.. compiler, and there is no no-such-compiler"):
        fit(recipes.load(tiny("bert", text, tmp_path / "run", compile=True)))
    assert not (tmp_path / "run").exists()


needs_compiler = pytest.mark.skipif(choices.lacks_compiler() is not None, reason=str(choices.lacks_compiler()))


@needs_compiler
@pytest.mark.parametrize("family", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_compiled_layers_learn_the_same(family: str, text: Path, tmp_path: Path) -> None:
    for name, compiled in (("plain", False), ("compiled", True)):
        fit(recipes.load(tiny(family, text, tmp_path / name, still=True, compile=compiled, max_steps=3)))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    plain, compiled_ = (load_file(tmp_path / name / "model" / "model.safetensors")
                        for name in ("plain", "compiled"))
    assert plain.keys() == compiled_.keys()
    for name, weight in plain.items():
        assert torch.allclose(weight, compiled_[name], atol=1e-5), name
    first, second = (load_file(tmp_path / name / "checkpoints" / "step-00000003" / "trained.safetensors")
                     for name in ("plain", "compiled"))
    assert first.keys() == second.keys()


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit(text: Path, tmp_path: Path) -> None:
    """With dropout on: what is dropped in compiled code follows from the seed of the step too."""
    tree = tiny("bert", text, tmp_path / "whole", compile=True, save_steps=2, lr_scheduler_type="constant")
    fit(recipes.load(tree))
    half = {**tree, "output_dir": str(tmp_path / "half"), "training": {**tree["training"], "max_steps": 2}}
    fit(recipes.load(half))
    fit(recipes.load({**tree, "output_dir": str(tmp_path / "half")}))
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")


def test_a_run_from_before_compile_was_a_field_goes_on(text: Path, tmp_path: Path) -> None:
    tree = tiny("bert", text, tmp_path / "run", max_steps=1, lr_scheduler_type="constant")
    fit(recipes.load(tree))
    path = tmp_path / "run" / "recipe.yaml"
    old = [line for line in path.read_text().splitlines() if "compile:" not in line and "tf32:" not in line]
    path.write_text("\n".join(old))
    tree["training"]["max_steps"] = 2
    assert fit(recipes.load(tree))["steps"] == 2


@needs_compiler
def test_a_run_goes_on_compiled_or_not_as_it_began(text: Path, tmp_path: Path) -> None:
    tree = tiny("bert", text, tmp_path / "run", max_steps=1, lr_scheduler_type="constant")
    fit(recipes.load(tree))
    longer = {**tree, "training": {**tree["training"], "compile": True, "max_steps": 2}}
    with pytest.raises(CheckpointError, match=r"training\.compile is True, there False"):
        fit(recipes.load(longer))


@pytest.mark.parametrize(("rate", "config", "heard"), [
    (0.0, {}, ["hidden_dropout_prob", "attention_probs_dropout_prob"]),
    (0.0, {"hidden_dropout_prob": 0.0}, ["attention_probs_dropout_prob"]), (0.1, {}, [])])
def test_a_model_pretrained_without_dropout_is_tuned_with_a_word_on_it(
    labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, rate: float, config: dict[str, float],
    heard: list[str]) -> None:
    base = random_encoder(tmp_path / "base", stories(80), hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    with caplog.at_level(logging.INFO, "llmkit"):
        fit(recipes.load({
            "name": "words", "backbone": {"pretrained": str(base), "config": config}, "data": {"train": str(labelled)},
            "task": {"name": "classification"}, "output_dir": str(tmp_path / "run"), "training": {"max_steps": 1}}))
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("dropout")]
    assert said == ["dropout: 0 in the pretrained model's config, and small data may need it: "
                    + " ".join(f"--set backbone.config.{name}=0.1" for name in heard)] * bool(heard)
