"""The forward pass that is written out for a CPU, against transformers' own."""

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmkit.backbones.kernels import packed_decoder as decoders
from llmkit.backbones.kernels.packed_decoder import Decoder, Plan

SHAPE = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": 0,
         "bos_token_id": None, "eos_token_id": 1}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.3,
        "bos_token_id": None, "eos_token_id": 1}
ROPE: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16, "rope_theta": 100.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 100.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
}


def llama(**fields: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **fields}))


def qwen3(**fields: Any) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "head_dim": 16, **fields}))


def gpt2(**fields: Any) -> Any:
    return GPT2LMHeadModel(GPT2Config(**{**GPT2, **fields}))


KNOWN: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama, tied": lambda: llama(tie_word_embeddings=True),
    "llama, a key for each query, biases": lambda: llama(num_key_value_heads=4, attention_bias=True, mlp_bias=True),
    "llama, wide heads, one key": lambda: llama(head_dim=12, num_key_value_heads=1, hidden_act="gelu"),
    **{f"llama, {kind} positions": lambda kind=kind: llama(rope_parameters=ROPE[kind])  # type: ignore[misc]
       for kind in ("linear", "llama3", "yarn")},
    "qwen3": qwen3,
    "gpt2": gpt2,
    "gpt2, untied, scaled by layer": lambda: gpt2(
        tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True, activation_function="relu", n_inner=40),
}
PROMPTS = [[7, 8, 9, 10], [7, 8, 11, 12, 13, 14, 15], [7, 8], [7, 8, 9, 10, 30, 31, 32, 33, 34, 35, 36, 37]]
AFTER = [[20, 21, 22], [23, 24, 25], [26, 27, 28], [29, 40, 41]]


def both(make: Callable[[], Any], dtype: torch.dtype = torch.float32) -> tuple[Any, Decoder]:
    """A model as transformers has it, biases not zero, and the decoder of a copy."""
    torch.manual_seed(2)
    model = make().eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            weight.data += torch.randn_like(weight) / 4
    model = model.to(dtype)
    decoder = Decoder.of(copy.deepcopy(model))
    assert decoder is not None
    return model, decoder


def written(decoder: Decoder) -> torch.Tensor:
    """Logits behind each prompt and each token after it: (rows, tokens, vocabulary)."""
    with torch.inference_mode():
        states = decoder.states()
        found = [decoder.read(PROMPTS, states)]
        for step in range(3):
            found.append(decoder.step([row[step] for row in AFTER], states))
    return torch.stack(found, 1).float()


def expected(model: Any) -> torch.Tensor:
    """The same by transformers, each text alone and read anew each time."""
    with torch.inference_mode():
        return torch.stack([torch.stack([
            model(torch.tensor([[*prompt, *after[:step]]])).logits[0, -1].float() for step in range(4)])
            for prompt, after in zip(PROMPTS, AFTER, strict=True)])


@pytest.mark.parametrize("name", KNOWN)
def test_uneven_prompts_together_give_the_logits_that_transformers_gives_each_alone(name):
    model, decoder = both(KNOWN[name])
    torch.testing.assert_close(written(decoder), expected(model), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a CPU without products of bfloat16")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_in_bfloat16_it_is_as_near_to_the_exact_numbers_as_transformers_is(name):
    model, decoder = both(KNOWN[name], torch.bfloat16)
    theirs, exact = expected(model), expected(model.float())
    assert (written(decoder) - exact).square().mean() < 1.5 * (theirs - exact).square().mean()


def test_tokens_find_their_rows_and_places():
    plan = Plan([2, 0, 3], [7, 4, 5], torch.float32)
    assert plan.rows.tolist() == [0, 0, 2, 2, 2]
    assert plan.places.tolist() == [7, 8, 5, 6, 7]
    assert plan.lengths == [9, 4, 8]
    assert plan.last == [1, 4]
    assert [(row, start, end) for row, start, end, _ in plan.parts] == [(0, 0, 2), (2, 2, 5)]
    assert plan.parts[1][3].int().tolist() == [[1] * 6 + [0, 0], [1] * 7 + [0], [1] * 8]
    hidden = Plan([1, 1], [2, 1], torch.float32).mask
    assert hidden.tolist() == [[[[0, 0, 0]]], [[[0, 0, float("-inf")]]]]


def test_what_all_prompts_begin_with_is_read_once():
    decoder = both(llama)[1]
    read: list[int] = []
    decoder.tokens.register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    with torch.inference_mode():
        decoder.read(PROMPTS, decoder.states())
        decoder.read([[7, 8, 9]] * 3, decoder.states())
        decoder.read([[7], [8, 9]], decoder.states())
    assert read == [1, 3 + 6 + 1 + 11, 2, 3, 3]


def test_long_prompts_are_read_in_parts(monkeypatch):
    model, decoder = both(llama)
    monkeypatch.setattr(decoders, "READ", 5)
    torch.testing.assert_close(written(decoder), expected(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_text_grows_beyond_the_room_it_had_and_rows_leave(name):
    model, decoder = both(KNOWN[name])
    row = torch.randint(50, (decoders.ROOM + 40,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        states = decoder.states()
        decoder.read([row[:20], row[5:10], row[:30]], states)
        states.only(torch.tensor([2, 0]))
        for i in range(decoders.ROOM):
            logits = decoder.step([row[30 + i], row[20 + i]], states)
        together = torch.stack([model(torch.tensor([row[:i + decoders.ROOM]])).logits[0, -1] for i in (30, 20)])
    assert states.filled == [30 + decoders.ROOM, 20 + decoders.ROOM]
    torch.testing.assert_close(logits, together, atol=1e-4, rtol=1e-4)


def test_what_is_cut_is_forgotten():
    model, decoder = both(qwen3)
    with torch.inference_mode():
        states = decoder.states()
        decoder.read([[7, 8, 9, 10, 11]], states)
        states.crop(-2)
        found = decoder.read([[7, 8, 9, 20, 21, 22]], states)
    torch.testing.assert_close(found, model(torch.tensor([[7, 8, 9, 20, 21, 22]])).logits[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama, tied", "gpt2"])
def test_a_model_whose_layers_are_packed_still_does_what_it_did(name):
    model, _ = both(KNOWN[name])
    packed = copy.deepcopy(model)
    assert Decoder.of(packed) is not None
    ids = torch.tensor([PROMPTS[3]])
    how = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert packed.generate(ids, **how).tolist() == model.generate(ids, **how).tolist()
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def hooked() -> Any:
    model = llama()
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    return model


def adapted(**fields: Any) -> Any:
    return peft.get_peft_model(llama(), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **fields))


def replaced() -> Any:
    class Other(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(super().forward(x))

    model = llama()
    model.model.layers[0].self_attn.o_proj = Other(32, 32, bias=False)
    return model


OTHERS: dict[str, Callable[[], Any]] = {
    "windows": lambda: qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "positions that change as a text grows": lambda: llama(rope_parameters=ROPE["dynamic"]),
    "another family": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)),
    "an adapter": adapted,
    "an adapter's base": lambda: adapted().get_base_model(),
    "a hook": hooked,
    "a layer of somebody's own": replaced,
    "another attention": lambda: llama(attn_implementation="flex_attention"),
    "an encoder to look at": lambda: gpt2(add_cross_attention=True),
    "numbers of half precision": lambda: llama().half(),
    "numbers of two kinds": lambda: (lambda model: (model.lm_head.double(), model)[1])(llama()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_known_to_be_the_same_is_left_to_transformers(name):
    model = OTHERS[name]().eval()
    kinds = [type(part) for part in model.modules()]
    assert Decoder.of(model) is None
    assert [type(part) for part in model.modules()] == kinds


def test_a_model_that_trains_is_left_alone():
    assert Decoder.of(llama().train()) is None
