"""backbone.quantization_config: what can't be is refused before any library is loaded, with the reason."""

from typing import Any

import pytest

from llmkit import recipe
from llmkit.system.errors import RequestError

FOUR: dict[str, Any] = {"load_in_4bit": True}


def tree(chosen: dict[str, Any], method: Any = "lora", **more: Any) -> dict[str, Any]:
    return {"backbone": {"pretrained": "somewhere", "quantization_config": chosen}, "data": {"train": "a.txt"},
            "objective": {"name": "causal_lm"}, "tuning": method, **more}


def test_it_is_read_and_written_as_it_is() -> None:
    said = recipe.load(tree({**FOUR, "bnb_4bit_quant_type": "nf4"}))
    assert said.backbone.quantization_config == recipe.Quantization(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    assert recipe.load(recipe.tree_of(said)) == said


@pytest.mark.parametrize(("chosen", "method", "more", "why"), [
    ({}, "lora", {}, "how many bits is missing; say load_in_4bit: true or load_in_8bit: true"),
    ({**FOUR, "load_in_8bit": True}, "lora", {}, "both are given"),
    (FOUR, "full", {}, "full can't have it: it trains the model's own weights, and those of 4 or 8 bits have no grad"),
    (FOUR, "bias", {}, "bias can't have it"), (FOUR, "head", {}, "head can't have it"),
    (FOUR, "vera", {}, "peft has no VeRA over quantised layers"),
    (FOUR, {"method": "lora", "init_lora_weights": "pissa"}, {}, "pissa starts from the weights as they are"),
    (FOUR, {"method": "peft", "peft_type": "LOHA"}, {}, "peft has no LOHA over quantised layers"),
    ({"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "lora", {}, "bnb_4bit_quant_type: is an option of 4 bits"),
    ({**FOUR, "llm_int8_threshold": 3.0}, "lora", {}, "llm_int8_threshold: is an option of 8 bits"),
    ({**FOUR, "bnb_4bit_quant_type": "int4"}, "lora", {}, "bnb_4bit_quant_type"),
    ({**FOUR, "bits": 4}, "lora", {}, "bits: no such field"),
    (FOUR, "lora", {"tokenizer": {"train": {"vocab_size": 300}}}, "a quantised base keeps its own tokenizer"),
    (FOUR, "lora", {"backbone": {"family": "gpt2", "quantization_config": FOUR},
                    "tokenizer": {"pretrained": "x"}}, "a model from scratch trains all of its weights")])
def test_what_cannot_be_is_refused(
    chosen: dict[str, Any], method: Any, more: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError) as told:
        recipe.load(tree(chosen, method, **more))
    assert why in str(told.value)
    assert str(told.value).startswith(("backbone.quantization_config", "tokenizer"))
