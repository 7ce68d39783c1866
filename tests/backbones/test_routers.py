"""The balancing loss of routers: by hand, as transformers computes it, without padding, and wherever a step is cut."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from torch import nn

from llmkit.backbones.shared.routers import Load, Router, Routers
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

SHAPE = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "intermediate_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"head_dim": 16, "moe_intermediate_size": 32, "num_experts": 5, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 6,
                  "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 1},
    "granitemoe": {"num_local_experts": 4},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
                "layer_types": ["full_attention"] * 2},
    "jetmoe": {"num_local_experts": 4, "kv_channels": 16},
}
"""Families whose routers have the loss of Mixtral, each in its own place and with its own words for it."""


def model_of(kind: str, **fields: Any) -> Any:
    """A tiny model with weights large enough that its routers choose differently."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **OTHERS.get(kind, {}), **fields})
    torch.manual_seed(0)
    attention = "eager" if kind == "gpt_oss" else "sdpa"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Four rows of 12, two of them with padding: 48 positions, 34 tokens."""
    torch.manual_seed(1)
    ids, mask = torch.randint(3, 90, (4, 12)), torch.ones(4, 12, dtype=torch.long)
    mask[1, 7:] = mask[3, 3:] = 0
    return ids, mask


class Gate(nn.Module):
    """A router whose logits are what it is given."""

    def forward(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits, logits.topk(1).indices


def heard(logits: torch.Tensor, mask: torch.Tensor | None = None) -> Load:
    """What one router of two experts did with its logits, (positions, 2)."""
    gate = Gate()
    routers = Routers((Router("gate", gate, 0, nn.Identity()),), 1.0, 2, 1, True)
    with routers.hear({}) as found:
        if mask is not None:
            found.masks[id(routers.routers[0].body)] = mask
        gate(logits)
    load = routers.load(found)
    assert load is not None
    return load


def test_the_loss_of_two_experts_by_hand() -> None:
    """Three tokens to the first, one to the second: 2 x (3/4 x P1 + 1/4 x P2), Fedus et al. 2021, eq. 4."""
    logits = np.array([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 3.0]])
    first = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))  # a softmax over two
    by_hand = 2 * (3 / 4 * first.mean() + 1 / 4 * (1 - first).mean())
    load = heard(torch.tensor(logits))
    assert load.chosen.tolist() == [[3, 1]]
    assert load.tokens.tolist() == [4]
    assert load.balance().item() == pytest.approx(by_hand, rel=1e-6)
    assert by_hand == pytest.approx(1.0704, abs=1e-4)
    assert dict(zip(("loss", "max", "min", "entropy"), load.figures().tolist(), strict=True)) == pytest.approx({
        "loss": by_hand, "max": 0.75, "min": 0.25,
        "entropy": -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)}, rel=1e-6)


def test_each_layer_has_a_loss_of_its_own_by_hand() -> None:
    """Two tokens, two of three experts each: 3 (1 x .45 + .5 x .35 + .5 x .2), and 3 (2 x .8) where one gets all."""
    load = Load(torch.tensor([[2.0, 1, 1], [0, 0, 4]]), torch.tensor([[0.9, 0.7, 0.4], [0.2, 0.2, 1.6]]),
                torch.tensor([2.0, 2]))
    assert load.by_layer().tolist() == pytest.approx([2.175, 4.8])


def test_padding_is_no_token() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [9.0, 0.0], [9.0, 0.0]])
    padded, alone = heard(logits, torch.tensor([[1, 1], [0, 0]])), heard(logits[:2])
    assert padded.chosen.tolist() == alone.chosen.tolist() == [[1, 1]]
    assert padded.balance().item() == pytest.approx(alone.balance().item(), rel=1e-6)
    assert heard(logits).balance().item() > 1.1 * alone.balance().item()  # it would count


def test_even_loads_cost_k_and_one_expert_for_all_costs_the_number_of_experts() -> None:
    even = heard(torch.tensor([[1e-6, 0.0], [0.0, 1e-6]]))
    one = heard(torch.tensor([[50.0, 0.0]] * 4))
    assert even.balance().item() == pytest.approx(1.0)
    assert one.balance().item() == pytest.approx(2.0)
    assert [load.figures()[3].item() for load in (even, one)] == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", OTHERS)
def test_the_loss_and_its_gradient_are_transformers_own(kind: str, padded: bool) -> None:
    model, (ids, mask) = model_of(kind), rows()
    routers = Routers.of(model)
    assert routers is not None
    given = {"attention_mask": mask} if padded else {}
    with routers.hear({}) as found:
        theirs = model(input_ids=ids, output_router_logits=True, **given).aux_loss
    load = routers.load(found)
    assert load is not None
    assert load.balance().item() == pytest.approx(theirs.item(), rel=1e-6)
    assert load.tokens.tolist() == [34 if padded else 48] * len(routers.routers)
    weights = list(model.get_input_embeddings().parameters())
    for ours, other in zip(torch.autograd.grad(load.balance(), weights, retain_graph=True),
                           torch.autograd.grad(theirs, weights), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-7)


def test_parts_of_a_batch_add_up_to_it() -> None:
    """Each part by the shares of the whole: loss and gradient; by its own shares they wouldn't."""
    model, (ids, mask) = model_of("qwen3_moe"), rows()
    routers = Routers.of(model)
    assert routers is not None

    def load_of(some: slice) -> Load:
        with routers.hear({}) as found:
            model(input_ids=ids[some], attention_mask=mask[some])
        load = routers.load(found)
        assert load is not None
        return load

    whole, parts = load_of(slice(0, 4)), [load_of(slice(i, i + 2)) for i in (0, 2)]
    everything = sum((part.kept() for part in parts[1:]), parts[0].kept())
    assert everything.of_flat(everything.flat()).tokens.tolist() == [34, 34]
    assert sum(part.balance(everything).item() for part in parts) == pytest.approx(whole.balance().item(), rel=1e-6)
    apart = [part.balance().item() * part.tokens[0].item() / 34 for part in parts]
    assert abs(sum(apart) - whole.balance().item()) > 1e-4
    gates = [router.module.weight for router in routers.routers]
    once = torch.autograd.grad(whole.balance(), gates)
    cut = torch.autograd.grad(parts[0].balance(everything) + parts[1].balance(everything), gates)
    for one, other in zip(once, cut, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_packed_documents_count_their_tokens() -> None:
    """The mask of packed rows is one of pairs of positions: `documents` says what is padding."""
    family, (ids, mask) = registry.find("backbones", "qwen3_moe"), rows()
    model = model_of("qwen3_moe")
    routers = Routers.of(model)
    assert routers is not None
    packed = {"input_ids": ids, "documents": mask - 1}
    with routers.hear(packed) as found:
        family.outputs(model, packed)
    load = routers.load(found)
    assert load is not None
    assert load.tokens.tolist() == [34, 34]
    assert load.chosen.sum(1).tolist() == [68, 68]  # two of a token
    assert load.shares().sum(1).tolist() == pytest.approx([1, 1])


def test_without_padding_in_the_layers_the_loads_are_the_same() -> None:
    from llmkit.backbones.kernels.unpadded import unpad

    family, (ids, mask) = registry.find("backbones", "qwen3_moe"), rows()
    loads = []
    for way in (False, True):
        model = model_of("qwen3_moe")
        if way:
            unpad(model, family)
        routers = Routers.of(model)
        assert routers is not None
        with routers.hear({}) as found:
            model(input_ids=ids, attention_mask=mask, use_cache=False)
        assert len(found.calls[0][0][0]) == (34 if way else 48)
        loads.append(routers.load(found))
    assert loads[0] is not None
    assert loads[1] is not None
    assert loads[1].chosen.tolist() == loads[0].chosen.tolist()
    assert loads[1].balance().item() == pytest.approx(loads[0].balance().item(), rel=1e-5)


def test_a_model_of_one_feed_forward_part_has_no_routers() -> None:
    assert Routers.of(model_of("qwen3", head_dim=16)) is None


def test_routers_that_balance_in_another_way_have_no_loss_but_loads() -> None:
    model = model_of("deepseek_v3", n_routed_experts=8, moe_intermediate_size=32, num_experts_per_tok=2, n_group=2,
                     topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
                     qk_nope_head_dim=8, v_head_dim=16, num_key_value_heads=2)
    routers = Routers.of(model)
    assert routers is not None
    assert (routers.coefficient, routers.balances, len(routers.routers)) == (0.0, False, 1)
    with routers.hear({}) as found:
        chosen = model.model(input_ids=rows()[0]) and found.calls[0][0][1]
    load = routers.load(found)
    assert load is not None
    assert load.chosen[0].tolist() == torch.bincount(chosen.flatten(), minlength=8).tolist()  # the router's own choice


def test_routers_with_a_loss_of_another_kind_are_refused_unless_it_is_off() -> None:
    import transformers

    def switch(**fields: float) -> Any:
        config = transformers.AutoConfig.for_model(
            "switch_transformers", d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, num_experts=4,
            num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, vocab_size=90, **fields)
        with torch.device("meta"):
            return transformers.AutoModelForSeq2SeqLM.from_config(config)

    with pytest.raises(RequestError, match=r"config: \{router_aux_loss_coef: 0, router_z_loss_coef: 0\}"):
        Routers.of(switch())
    off = Routers.of(switch(router_aux_loss_coef=0.0, router_z_loss_coef=0.0))
    assert off is not None
    assert off.coefficient == 0


def test_parameters_at_work_for_a_token() -> None:
    """The published 30B-A3B: 30.5 B, 3.3 B of them at work; and by hand for a tiny one."""
    import transformers

    family = registry.find("backbones", "qwen3_moe")
    for size, fields, whole, active in (
        ("30b-a3b", {"vocab_size": 151936}, 30_532_122_624, 3_345_000_000),
        # 90 words x 32, twice 2 of 4 experts of 3 x 32 x 32 idle
        ("tiny", {**SMALL["qwen3_moe"], "vocab_size": 90}, None, None),
    ):
        config = transformers.AutoConfig.for_model(family.model_type, **{**family.sizes[size], **fields})
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        routers = Routers.of(model)
        assert routers is not None
        total = sum(parameter.numel() for parameter in model.parameters())
        if whole is None:
            assert routers.idle(model) == 2 * 2 * 3 * 32 * 32
            continue
        assert total == whole
        assert total - routers.idle(model) == pytest.approx(active, rel=0.01)
