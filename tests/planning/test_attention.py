"""How a model attends: as its family does, or as a recipe says where that can be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny

from llmkit import recipe as recipes
from llmkit.backbones.kernels.privates import attention_of
from llmkit.planning.network import network
from llmkit.planning.settle import settle
from llmkit.planning.vocabulary import speak
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

RUNS = {"gpt2": "blocks", "bert": "none", "t5": "blocks"}


def tree(family: str, text: Path, folder: Path, way: str, **more: Any) -> dict[str, Any]:
    made = tiny(family, text, folder, still=True)
    made["backbone"]["attn_implementation"] = way
    made["data"] |= more.pop("data", {})
    return {**made, **more}


def card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """Let torch say that there is a GPU, without any."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)


@pytest.mark.parametrize(("family", "way"), [("gpt2", "sdpa"), ("xlnet", "eager")])
def test_auto_is_the_familys_own_and_is_recorded(family: str, way: str, text: Path, tmp_path: Path) -> None:
    settled = settle(recipes.load(tree(family, text, tmp_path, "auto")))
    assert settled.recipe.backbone.attn_implementation == way
    assert settle(settled.recipe).recipe == settled.recipe


@pytest.mark.parametrize("family", sorted(RUNS))
def test_eager_learns_what_sdpa_learns(family: str, text: Path, tmp_path: Path) -> None:
    done = [fit(recipes.load(tree(family, text, tmp_path / way, way, data={"packing": RUNS[family]})))["train_loss"]
            for way in ("eager", "sdpa")]
    assert done[0] == pytest.approx(done[1], rel=1e-5)


def test_the_model_attends_as_the_recipe_says(text: Path, tmp_path: Path) -> None:
    settled = settle(recipes.load(tree("gpt2", text, tmp_path, "eager")))
    assert settled.recipe.data.packing == "blocks"
    assert attention_of(network(settled, speak(settled), {}).model) == "eager"


@pytest.mark.parametrize(("family", "way", "more", "why"), [
    ("gpt2", "eager", {"data": {"packing": "documents"}}, "eager can't be used: it adds its mask to the scores, and "
     "data.packing: documents keeps documents apart by one"),
    ("gpt2", "eager", {"tuning": {"method": "prefix"}}, "prefix attends in a way of its own, over sdpa"),
    ("gpt2", "eager", {"objective": {"name": "prefix_lm"}, "data": {"packing": "none"}}, "prefix_lm needs one"),
    ("electra", "eager", {"objective": {"name": "replaced_token"}}, "trains two networks"),
    ("xlnet", "sdpa", {}, "isn't written for it; it has eager"),
    ("bart", "flash_attention_2", {"objective": {"name": "denoising"}, "data": {"packing": "none"}},
     "transformers' cross-attention takes the padding of the encoder's rows for that of the decoder's"),
    ("bert", "flex_attention", {"data": {"packing": "none"}}, "on a CPU FlexAttention has no backward pass"),
    ("bert", "flash_attention_2", {"data": {"packing": "none"}}, "FlashAttention runs on NVIDIA GPUs")])
def test_a_way_that_cannot_be_had_is_refused_with_the_reason(
    family: str, way: str, more: dict[str, Any], why: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"backbone\.attn_implementation: ") as told:
        settle(recipes.load(tree(family, text, tmp_path, way, **more)))
    assert why in str(told.value)


@pytest.mark.parametrize(("capability", "precision", "installed", "why"), [
    ((7, 5), "fp16", True, "compute capability below 8.0"), ((8, 0), "bf16", False, "flash-attn isn't installed"),
    ((8, 0), "fp32", True, "16 bits only"), ((8, 0), "bf16", True, "")])
def test_flash_attention_needs_a_card_a_package_and_sixteen_bits(
    capability: tuple[int, int], precision: str, installed: bool, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmkit.planning import attention

    card(monkeypatch, capability)
    monkeypatch.setattr(attention, "find_spec", lambda name: name if installed else None)
    assert why in attention.lacks_flash(precision)
    assert bool(attention.lacks_flash(precision)) == bool(why)


def test_a_run_from_before_the_field_goes_on(text: Path, tmp_path: Path) -> None:
    """Its recipe.yaml has no such field, which meant the family's own."""
    made = tiny("gpt2", text, tmp_path / "run", save_steps=2)
    fit(recipes.load(made))
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "attn_implementation" not in line))
    assert fit(recipes.load(made))["status"] == "completed"
