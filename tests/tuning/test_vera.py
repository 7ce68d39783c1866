from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_lora import CASES, batch, bert, reopened, train
from transformers import BertForMaskedLM

from llmkit.backbones.bert import Bert
from llmkit.recipe.registry import find
from llmkit.tuning.base import Setting
from llmkit.tuning.vera import Vera


def test_its_file_name_is_its_name() -> None:
    assert find("tuning", "vera") is Vera


@pytest.mark.parametrize("case", CASES)
def test_at_the_start_it_is_the_base_model(case: str) -> None:
    make, setting, _ = CASES[case]
    base, tuned = make(), Vera().apply(make(), setting)
    with torch.no_grad():
        assert torch.equal(base(**batch(case)).logits, tuned(**batch(case)).logits)


@pytest.mark.parametrize("save_projection", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_it_trains_only_vectors_and_new_parts_and_peft_opens_what_it_saves(
    case: str, save_projection: bool, tmp_path: Path
) -> None:
    make, setting, _ = CASES[case]
    method = Vera(r=16, save_projection=save_projection)
    tuned = method.apply(make(), setting)
    losses = train(tuned, batch(case))
    assert losses[-1] < losses[0]
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert all(".vera_lambda_" in name or ".modules_to_save." in name for name in trained)
    method.save(tuned, tmp_path)
    shared = [name for name in load_file(tmp_path / "adapter_model.safetensors") if name.endswith(("vera_A", "vera_B"))]
    assert len(shared) == (2 if save_projection else 0)
    torch.manual_seed(7)  # the random matrices come from a seed of their own
    reopened(tuned, case, tmp_path)


def test_saved_matrices_are_read_and_not_drawn_again(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    Vera(r=4).save(Vera(r=4).apply(bert(BertForMaskedLM), Setting(Bert, "AutoModelForMaskedLM")), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    saved = {name: value + 1 if name.endswith("vera_A") else value for name, value in load_file(path).items()}
    save_file(saved, path)
    fresh = PeftModel.from_pretrained(bert(BertForMaskedLM), str(tmp_path))
    assert torch.equal(fresh.base_model.vera_A["default"], saved["base_model.vera_A"])


def test_all_layers_share_the_two_matrices_of_its_seed() -> None:
    setting = Setting(Bert, "AutoModelForMaskedLM")
    one, same, other = (Vera(r=4, projection_prng_key=key).apply(bert(BertForMaskedLM), setting) for key in (1, 1, 2))
    assert torch.equal(one.base_model.vera_A["default"], same.base_model.vera_A["default"])
    assert not torch.equal(one.base_model.vera_A["default"], other.base_model.vera_A["default"])
    layers = [part for part in one.modules() if type(part).__name__ == "Linear" and "vera_lambda_d" in dict(
        part.named_children())]
    assert len(layers) == 4
    assert len({id(layer.vera_A["default"]) for layer in layers}) == 1


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["vera", "ia3"])
def test_deberta_is_tuned_in_less_than_fp32(method: str, precision: torch.dtype) -> None:
    """Its scores are masked by the least number of the queries' type, and these come out of the adapter in fp32."""
    from transformers import AutoModelForMaskedLM, DebertaV2Config

    torch.manual_seed(0)
    family = find("backbones", "deberta")
    base = AutoModelForMaskedLM.from_config(
        DebertaV2Config(**family.sizes["tiny"] | family.small, vocab_size=40)).eval()
    tuned = find("tuning", method)().apply(base, Setting(family, "AutoModelForMaskedLM"))
    ids = torch.arange(5, 21).view(2, 8)
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(8) < torch.tensor([[8], [5]])).long()}
    with torch.no_grad():
        whole = family.outputs(tuned, inputs).logits
        with torch.autocast("cpu", precision):
            less = family.outputs(tuned, inputs).logits.float()
    assert (less - whole).abs().max() < 0.05
