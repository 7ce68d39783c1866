"""Layers that see no padding give what they give with it: outputs, gradients, and the losses of a run."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import transformers
from conftest import SMALL, STILL, tiny

from llmkit import recipe
from llmkit.backbones.kernels import unpadded as _unpadded
from llmkit.backbones.kernels.unpadded import TokenPlaces, grouped, unpad
from llmkit.planning.choices import lacks_compiler
from llmkit.recipe import registry
from llmkit.training.fit import fit

FAMILIES = [name for name in registry.names("backbones") if registry.find("backbones", name).unpads]
LENGTHS = torch.tensor([3, 9, 1, 5])
MASKS = {"right": torch.arange(9)[None] < LENGTHS[:, None], "left": torch.arange(9)[None] >= 9 - LENGTHS[:, None]}


def model(name: str, head: str = "AutoModelForTokenClassification", **config: Any) -> Any:
    family = registry.find("backbones", name)
    fields = {**family.sizes["tiny"], **SMALL[name], **STILL[name], "vocab_size": 50, "pad_token_id": 0, **config}
    torch.manual_seed(0)
    made = transformers.AutoConfig.for_model(family.model_type, num_labels=3, **fields)
    return getattr(transformers, head).from_config(made, attn_implementation="sdpa").eval()


def ids(mask: torch.Tensor) -> torch.Tensor:
    return torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(1)) * mask


def learned(net: Any, mask: torch.Tensor) -> list[torch.Tensor]:
    """What a model says of tokens, and every gradient of it."""
    net.zero_grad()
    said = net(input_ids=ids(mask), attention_mask=mask.long()).logits
    said = said[mask] if said.dim() == 3 else said
    (said * torch.arange(1, said.shape[-1] + 1)).square().sum().backward()
    return [said.detach(), *(weight.grad for weight in net.parameters() if weight.grad is not None)]


def test_lengths_that_fall_make_groups_of_like_ones() -> None:
    assert grouped([9, 8, 4, 4, 1], 0.8, 0) == [False, False, True, False, True]
    assert grouped([9, 8, 4, 4, 1], 0.8, 16) == [False, False, True, False, False]  # one row of 1: 15 scores less
    assert grouped([9, 8, 4, 4, 1], 0.8, 196) == [False] * 5  # three rows of 4: 195 less


def test_a_layout_keeps_every_token_and_its_place() -> None:
    layout = TokenPlaces(MASKS["right"].long(), heads=_unpadded.SAVED)
    padded = torch.arange(36).view(4, 9) + 1
    flat = layout.flat(padded)
    assert flat.tolist() == [[*range(10, 19), *range(28, 33), 1, 2, 3, 19]]  # rows of 9, 5, 3 and 1
    assert torch.equal(layout.padded(flat), padded * MASKS["right"])
    assert [(group.first, group.rows, group.longest) for group in layout.groups] == [
        (0, 1, 9), (1, 1, 5), (2, 1, 3), (3, 1, 1)]


@pytest.mark.parametrize(("head", "side"), [
    ("AutoModelForTokenClassification", "right"), ("AutoModelForTokenClassification", "left"),
    ("AutoModelForSequenceClassification", "right")])  # on the left it would read an encoder's padding
@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_and_gradients_are_those_of_padded_rows(
    name: str, head: str, side: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_unpadded, "SAVED", 0)  # groups however little they save
    net, mask = model(name, head), MASKS[side]
    right = learned(net, mask)
    unpad(net, registry.find("backbones", name))
    for mine, theirs in zip(learned(net, mask), right, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()) + 1e-5)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "albert"])
def test_layers_see_tokens_alone(name: str) -> None:
    net, family, seen = model(name), registry.find("backbones", name), []
    unpad(net, family)
    layers = list(net.base_model.get_submodule(family.layers[0].partition(".")[2]).children())
    layers[-1].register_forward_pre_hook(lambda layer, args, given: seen.append(
        (args[0] if args else given["hidden_states"]).shape[:2]), with_kwargs=True)
    learned(net, MASKS["right"])
    assert seen == [(1, 18)]


def test_full_rows_and_what_is_kept_for_generation_stay_in_rows() -> None:
    net = model("gpt2", "AutoModelForCausalLM")
    mask = MASKS["left"]
    prompt = {"input_ids": ids(mask), "attention_mask": mask.long()}
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = net.generate(**prompt, **options)
    full = torch.ones_like(mask)
    said = learned(net, full)
    unpad(net, registry.find("backbones", "gpt2"))
    assert torch.equal(net.generate(**prompt, **options), plain)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(learned(net, full), said, strict=True))


def test_albert_with_several_groups_of_layers_too() -> None:
    net = model("albert", num_hidden_layers=4, num_hidden_groups=2)
    right = learned(net, MASKS["right"])
    unpad(net, registry.find("backbones", "albert"))
    assert torch.allclose(learned(net, MASKS["right"])[0], right[0], atol=1e-5)


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "prompt", "layer_norm"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "modernbert"])
def test_a_run_has_the_same_losses(name: str, method: str, labelled: Path, tmp_path: Path) -> None:
    others = [shortcut for shortcut in get_args(recipe.Shortcut) if shortcut != "unpadded"]
    found = []
    for place, shortcuts in (("on", [*others, "unpadded"]), ("off", others)):
        asked = tiny(name, labelled, tmp_path / place, still=True, max_steps=3, shortcuts=shortcuts)
        asked["data"]["validation"] = 0.2
        summary = fit(recipe.load({
            **{key: value for key, value in asked.items() if key != "objective"}, "task": "classification",
            "tuning": method}))
        lines = (tmp_path / place / "metrics.jsonl").read_text().splitlines()
        found.append([summary["evaluation"]["loss"], *(json.loads(line)["loss"] for line in lines)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("packing", ["documents", "none"])
def test_modernbert_learns_from_documents_in_one_row(packing: str, text: Path, tmp_path: Path) -> None:
    """Its masks are several then, one a kind of layer: padding stays."""
    tree = tiny("modernbert", text, tmp_path / "run", max_steps=2)
    tree["objective"], tree["data"]["packing"] = "masked_lm", packing
    assert fit(recipe.load(tree))["steps"] == 2


@pytest.mark.skipif(lacks_compiler() is not None, reason=str(lacks_compiler()))
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_compiled_run_has_the_losses_of_padded_rows(name: str, labelled: Path, tmp_path: Path) -> None:
    others = [shortcut for shortcut in get_args(recipe.Shortcut) if shortcut != "unpadded"]
    found = []
    for place, more in (("compiled", {"compile": True}), ("padded", {"shortcuts": others})):
        asked = tiny(name, labelled, tmp_path / place, still=True, max_steps=3, **more)
        asked["data"]["validation"] = 0.2
        summary = fit(recipe.load({
            **{key: value for key, value in asked.items() if key != "objective"}, "task": "classification"}))
        lines = map(json.loads, (tmp_path / place / "metrics.jsonl").read_text().splitlines())
        found.append([summary["evaluation"]["loss"], *(line["loss"] for line in lines if "loss" in line)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
