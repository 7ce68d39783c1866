"""Linear layers of 8 bits, against products of the numbers that they stand for, in 64 bits."""

import copy
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import FAMILIES, SMALL, STILL
from torch import nn
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from llmkit.backbones.kernels import eight_bits, privates
from llmkit.backbones.kernels.eight_bits import EightBit, round_layers, settle
from llmkit.backbones.kernels.packed_decoder import Decoder, Packed

pytestmark = pytest.mark.skipif(not eight_bits.here(), reason="a CPU without exact products of 8 bits")

WRITERS = {"decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM",
           "permuted": "AutoModelForCausalLM", "encoder": "AutoModelForMaskedLM"}


def stands_for(layer: EightBit) -> torch.Tensor:
    """The weight (out, in) in 64 bits."""
    return layer.plain().double() * layer.scale.double()[:, None]


def test_a_weight_becomes_whole_numbers_and_a_scale_an_output():
    linear = nn.Linear(4, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, -0.5, 0.004, 0.0], [0.0, 0.0, 0.0, 0.0]])
    layer = EightBit.of(linear)
    assert layer.plain().tolist() == [[127, -64, 1, 0], [0, 0, 0, 0]]
    assert layer.scale[0].item() == pytest.approx(1 / 127)
    assert layer(torch.ones(1, 4)).tolist() == [[pytest.approx(64 / 127, abs=1e-4), 0]]


def test_a_layer_that_lies_the_other_way_round_is_read_so():
    layer = Conv1D(3, 2)  # 3 outputs of 2 inputs
    layer.weight.data = torch.tensor([[1.0, 2.0, 0.0], [0.5, -2.0, 4.0]])
    assert EightBit.of(layer).plain().tolist() == [[127, 64], [127, -127], [0, 127]]


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 4e-3), (torch.bfloat16, 0.3)])
@pytest.mark.parametrize("shape", [(1, 64), (2, 3, 64), (70, 64)])
def test_a_product_is_that_of_the_numbers_though_one_of_a_row_is_a_hundred_times_the_others(shape, dtype, off):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48).to(dtype)
    layer = EightBit.of(linear)
    x = torch.randn(shape).to(dtype)
    x.view(-1, 64)[0, 3] = 300
    found, exact = layer(x), x.double() @ stands_for(layer).t() + linear.bias.double()
    assert found.dtype is dtype and found.shape == (*shape[:-1], 48)
    without = x.double() - torch.nn.functional.one_hot(torch.tensor(3), 64) * x.double()[..., 3:4]
    small = (without @ stands_for(layer).t()).norm()  # what all but the large one give: one byte would lose it
    assert (found.double() - exact).norm() < off * small


def test_every_number_that_bf16_has_may_be_the_largest_of_a_row():
    x = (1 + torch.arange(128) / 128).bfloat16()[:, None].repeat(1, 64)
    x[:, 1:] *= -1
    layer = EightBit.of(nn.Linear(64, 4).bfloat16())
    exact = x.double() @ stands_for(layer).t() + layer.bias.double()
    assert (layer(x).double() - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_row_does_not_depend_on_those_beside_it_and_zeros_give_the_bias():
    torch.manual_seed(0)
    layer, x = EightBit.of(nn.Linear(32, 16)), torch.randn(5, 32)
    x[2] = 0
    together = layer(x)
    assert all(torch.equal(layer(x[i:i + 1])[0], together[i]) for i in range(5))
    assert torch.equal(together[2], layer.bias)


def test_what_is_no_number_stays_none():
    layer, x = EightBit.of(nn.Linear(8, 4)), torch.ones(2, 8)
    x[0, 3] = float("nan")
    found = layer(x)
    assert found[0].isnan().all() and found[1].isfinite().all()


def test_joined_layers_give_what_they_give_apart_and_hold_their_numbers_once():
    torch.manual_seed(0)
    layers, x = [EightBit.of(nn.Linear(16, out)) for out in (8, 4)], torch.randn(3, 16)
    apart = torch.cat([layer(x) for layer in layers], 1)
    joined = EightBit.joined(*layers)
    assert torch.equal(joined(x), apart)
    assert joined.numbers is None and layers[0].numbers is not None
    layers[0].settle()
    layers[0](x)
    assert layers[0].numbers is None


def small(name: str) -> Any:
    """A tiny model of a family, with its head for words."""
    family = FAMILIES[name]
    fields = {**family.sizes["tiny"], **SMALL[name], **STILL[name], "vocab_size": 60, "pad_token_id": 0,
              "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 0}
    torch.manual_seed(3)
    return getattr(transformers, WRITERS[family.shape]).from_config(AutoConfig.for_model(family.model_type, **fields))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_every_family_computes_what_its_rounded_weights_say(name):
    model = small(name).eval()
    rounded, plain = copy.deepcopy(model), copy.deepcopy(model)
    assert round_layers(rounded) > 0
    with torch.no_grad():
        for part, layer in rounded.named_modules():
            if isinstance(layer, EightBit):
                old = plain.get_submodule(part)
                old.weight = nn.Parameter(stands_for(layer).float() if isinstance(old, nn.Linear)
                                          else stands_for(layer).float().t())
        ids = {"input_ids": torch.tensor([[7, 8, 9, 10, 11, 1]])}
        if model.config.is_encoder_decoder:
            ids["decoder_input_ids"] = torch.tensor([[0, 7, 8]])
        found, expected, before = (one(**ids).logits for one in (rounded, plain, model))
    torch.testing.assert_close(found, expected, atol=2e-3 * float(expected.abs().max()), rtol=0)
    assert not torch.equal(expected, before)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_the_written_out_decoder_of_rounded_layers_gives_what_the_model_gives(name):
    model = small(name).eval()
    round_layers(model)
    ids = [7, 8, 9, 10, 11]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
        decoder = Decoder.of(model)
        assert decoder is not None
        assert not any(isinstance(part, Packed) for part in model.modules())
        states = decoder.states()
        found = [decoder.read([ids[:3]], states), decoder.step([10], states), decoder.step([11], states)]
    torch.testing.assert_close(torch.cat(found), expected[2:], atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_embeddings_that_the_last_layer_shares_stay_whole():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                         num_attention_heads=2, tie_word_embeddings=True)).eval()
    before = model.get_input_embeddings().weight.clone()
    assert round_layers(model) == 4 * 16 * 16 + 3 * 16 * 24 + 60 * 16
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert isinstance(model.lm_head, EightBit)


def test_what_an_adapter_learned_stays_whole():
    model = peft.get_peft_model(small("llama"), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    round_layers(model)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert isinstance(layer.base_layer, EightBit)
    assert type(layer.lora_A["default"]) is nn.Linear


def test_a_processor_whose_products_are_cut_is_not_taken(monkeypatch):
    def cut(*_: Any) -> torch.Tensor:
        return torch.full((16, 16), 32767.0)

    assert eight_bits.here()
    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", cut)
    assert not privates.onednn_multiplies_int8()


def test_settled_layers_compute_as_they_did():
    model = small("gpt2").eval()
    round_layers(model)
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        tried = model(ids).logits
        settle(model)
        assert torch.equal(model(ids).logits, tried)
    assert all(part.numbers is None for part in model.modules() if isinstance(part, EightBit))
