import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_in_two, tiny
from peft import PeftModel
from safetensors.torch import load_file
from test_lora import CASES, IDS, batch, bert, gpt2, reopened, train, unmoved
from transformers import BertForMaskedLM

from llmkit import models, recipe
from llmkit.backbones.bert import Bert
from llmkit.backbones.gpt2 import GPT2
from llmkit.recipe.registry import find
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.training.fit import fit
from llmkit.tuning.adalora import AdaLora, matrices
from llmkit.tuning.base import Setting

BERT = Setting(Bert, "AutoModelForMaskedLM", steps=20)


def counted(setting: Setting, steps: int) -> Setting:
    return Setting(setting.family, setting.head, setting.new, setting.base, steps=steps)


def test_its_file_name_is_its_name() -> None:
    assert find("tuning", "adalora") is AdaLora


@pytest.mark.parametrize("case", CASES)
def test_at_the_start_it_is_the_base_model(case: str) -> None:
    make, setting, _ = CASES[case]
    base, tuned = make(), AdaLora().apply(make(), counted(setting, 20))
    with torch.no_grad():
        assert torch.equal(base(**batch(case)).logits, tuned(**batch(case)).logits)


def steps(method: AdaLora, tuned: Any, numbers: Sequence[int]) -> list[int]:
    """Train; return how many singular values aren't 0 after each step."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], 0.5)
    left = []
    for number in numbers:
        logits = tuned(input_ids=torch.arange(3, 27).view(3, 8)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(3, 27))
        (loss + method.penalty(tuned)).backward()
        optimizer.step()
        method.after_step(tuned, number)
        optimizer.zero_grad()
        left.append(sum(int((weight != 0).sum()) for _, kind, weight in matrices(tuned) if kind == "lora_E"))
    return left


def test_ranks_stay_whole_then_fall_along_a_cubic_curve_then_stay() -> None:
    """Four layers of rank 4 to 2, 16 values to 8: 8 + 8 (1 - (t - 2) / 6)³ between steps 2 and 8."""
    method = AdaLora(init_r=4, target_r=2, tinit=2, tfinal=2)
    tuned = method.apply(bert(BertForMaskedLM), counted(BERT, 10))
    assert steps(method, tuned, range(1, 11)) == [16, 16, 12, 10, 9, 8, 8, 8, 8, 8]


@pytest.mark.parametrize(("taken", "left"), [
    ([1, 2, 3, 9, 10], [16, 16, 12, 8, 8]),   # 8, the last cut, is skipped
    ([9, 10], [8, 8]),                        # and all that is measured
    ([8, 9, 10], [8, 8, 8]),
])
def test_the_last_cut_is_made_up_for_where_fp16_skipped_it(taken: list[int], left: list[int]) -> None:
    method = AdaLora(init_r=4, target_r=2, tinit=2, tfinal=2)
    tuned = method.apply(bert(BertForMaskedLM), counted(BERT, 10))
    assert steps(method, tuned, taken) == left


def test_the_penalty_is_what_peft_adds_to_a_models_own_loss() -> None:
    method = AdaLora(orth_reg_weight=0.3)
    tuned: Any = method.apply(gpt2(), Setting(GPT2, "AutoModelForCausalLM", steps=20))
    inputs = batch("gpt2")
    with torch.no_grad():
        own = tuned(**inputs).loss - tuned.get_base_model()(**inputs).loss
        assert method.penalty(tuned) == pytest.approx(float(own), abs=1e-5)
    assert AdaLora(orth_reg_weight=0).penalty(tuned) is None


def test_what_was_kept_and_how_sensitive_it_is_comes_back() -> None:
    method = AdaLora(init_r=4, target_r=2, tinit=2, tfinal=2)
    whole = method.apply(bert(BertForMaskedLM), counted(BERT, 10))
    steps(method, whole, range(1, 6))
    again = method.apply(bert(BertForMaskedLM), counted(BERT, 10))
    again.load_state_dict(whole.state_dict())
    method.restore(again, {name: value.clone() for name, value in method.state(whole).items()})
    assert steps(method, whole, range(6, 11)) == steps(method, again, range(6, 11)) == [8, 8, 8, 8, 8]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_peft_opens_what_is_saved_with_the_ranks_that_are_left(case: str, tmp_path: Path) -> None:
    make, setting, _ = CASES[case]
    method, before = AdaLora(init_r=4, target_r=2, tinit=0, tfinal=2), make().state_dict()
    tuned: Any = method.apply(make(), counted(setting, 4))
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], 0.01)
    for number in range(1, 5):
        tuned(**batch(case)).loss.backward()
        optimizer.step()
        method.after_step(tuned, number)
        optimizer.zero_grad()
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or ".modules_to_save." in name for name in trained)
    method.save(tuned, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    values = [len(value) for name, value in saved.items() if name.endswith("lora_E")]
    assert sum(values) == 2 * len(values)
    reopened(tuned, case, tmp_path, 1e-5)
    assert unmoved(tuned, before)


def test_weights_of_an_earlier_step_are_saved_with_all_their_ranks(tmp_path: Path) -> None:
    method = AdaLora(init_r=4, target_r=2, tinit=2, tfinal=2)
    tuned: Any = method.apply(gpt2(), Setting(GPT2, "AutoModelForCausalLM", steps=10))
    steps(method, tuned, range(1, 3))
    early = {name: p.detach().clone() for name, p in tuned.named_parameters()}
    steps(method, tuned, range(3, 11))
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            p.copy_(early[name])
    method.save(tuned, tmp_path)
    fresh = PeftModel.from_pretrained(gpt2(), str(tmp_path)).eval()
    tuned.eval()
    with torch.no_grad():
        assert (fresh(input_ids=IDS).logits - tuned(input_ids=IDS).logits).abs().max() <= 1e-5


@pytest.fixture(scope="module")
def base(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    fit(recipe.load(tiny("gpt2", text, folder, max_steps=1)))
    return folder


def asked(base: Path, text: Path, folder: Path, tuning: dict[str, Any] | None = None, **training: Any) -> Any:
    return {
        "backbone": {"pretrained": str(base)}, "tuning": {"method": "adalora", "init_r": 4, "target_r": 2, "tfinal": 3,
                                                          **(tuning or {})},
        "data": {"train": str(text), "max_length": 32}, "objective": "causal_lm", "output_dir": str(folder),
        "training": {"max_steps": 10, "save_steps": 4, "save_total_limit": 9, "global_batch_size": 8,
                     "precision": "fp32", **training}}


def test_a_run_killed_between_two_cuts_ends_bit_for_bit_as_one_that_was_not(
    base: Path, text: Path, tmp_path: Path
) -> None:
    """Steps 2 to 7 cut; the checkpoint of step 4 is between them, with dropout on."""
    fit(recipe.load(asked(base, text, tmp_path, {"lora_dropout": 0.2})))
    kept = tmp_path / "checkpoints" / "step-00000004"
    assert any(name.startswith("kept.") for name in load_file(kept / "tuning.safetensors"))
    whole = load_file(tmp_path / "model" / "adapter_model.safetensors")
    ends = load_file(tmp_path / "checkpoints" / "step-00000010" / "tuning.safetensors")
    shutil.rmtree(tmp_path / "model")
    for step in ("08", "10"):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-000000{step}")
    fit(recipe.load(asked(base, text, tmp_path, {"lora_dropout": 0.2})), resume="must")
    cut = load_file(tmp_path / "model" / "adapter_model.safetensors")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    again = load_file(tmp_path / "checkpoints" / "step-00000010" / "tuning.safetensors")
    assert all(torch.equal(ends[name], again[name]) for name in ends)


def test_two_processes_keep_the_ranks_that_one_keeps(base: Path, text: Path, tmp_path: Path) -> None:
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = []
    for name, processes in (("one", 1), ("two", 2)):
        tree = asked(base, text, tmp_path / name, max_steps=6)
        tree["backbone"]["config"] = still
        if processes == 1:
            fit(recipe.load(tree))
        else:
            (tmp_path / "asked.yaml").write_text(recipe.dump(recipe.load(tree)))
            children = run_in_two(["pretrain", str(tmp_path / "asked.yaml")], tmp_path / name)
            assert [child.wait() for child in children] == [0, 0], children[0].said.read_text()
        config = json.loads((tmp_path / name / "model" / "adapter_config.json").read_text())
        ends.append((config["rank_pattern"], load_file(tmp_path / name / "model" / "adapter_model.safetensors")))
    assert ends[0][0] == ends[1][0]
    assert all(torch.allclose(ends[0][1][name], value, atol=1e-4) for name, value in ends[1][1].items())


def test_bf16_trains_and_reloads_the_same(base: Path, text: Path, tmp_path: Path) -> None:
    fit(recipe.load(asked(base, text, tmp_path, precision="bf16", max_steps=6, gradient_checkpointing=True)))
    weights = load_file(tmp_path / "model" / "adapter_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    models.open_model(tmp_path)


def test_a_length_that_is_not_in_steps_is_refused_and_one_that_grows_is_another_run(
    base: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"training.max_tokens.*adalora plans its steps ahead"):
        recipe.load(asked(base, text, tmp_path, max_steps=None, max_tokens=1000))
    with pytest.raises(RequestError, match=r"training.max_minutes.*max_steps or num_train_epochs"):
        recipe.load(asked(base, text, tmp_path, max_steps=None, max_minutes=1))
    fit(recipe.load(asked(base, text, tmp_path, max_steps=5, lr_scheduler_type="constant")))
    with pytest.raises(CheckpointError, match="another recipe's run"):
        fit(recipe.load(asked(base, text, tmp_path, max_steps=6, lr_scheduler_type="constant")))


def test_a_schedule_without_a_cut_or_ranks_to_cut_is_refused() -> None:
    with pytest.raises(RequestError, match="leave none of the run's 10 to cut in"):
        AdaLora(tinit=5, tfinal=5).apply(bert(BertForMaskedLM), counted(BERT, 10))
    with pytest.raises(RequestError, match="must be less than init_r, 12; for a fixed rank use lora"):
        AdaLora(target_r=12).check(Bert, "AutoModelForMaskedLM")


def test_it_learns() -> None:
    make, setting, _ = CASES["bert-classes"]
    losses = train(AdaLora().apply(make(), counted(setting, 20)), batch("bert-classes"))
    assert losses[-1] < losses[0]
