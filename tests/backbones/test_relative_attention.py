"""XLNet's attention as llmkit computes it: transformers' own results and gradients, for less."""

import copy

import numpy as np
import pytest
import torch
from torch.profiler import profile

from llmkit.backbones.kernels import shortcuts
from llmkit.backbones.kernels.relative_attention import quicken, shifted, shifted_at
from llmkit.objectives.base import join
from llmkit.objectives.permuted_lm import PermutedLM
from llmkit.recipe import registry


class Words:
    """A tokenizer of which only ids are needed."""

    sep_token_id, cls_token_id, pad_token_id, mask_token_id, eos_token_id, bos_token_id = 4, 3, 5, 6, 2, 1
    all_special_ids = tuple(range(7))

    def __len__(self):
        return 60

    def get_vocab(self):
        return {str(i): i for i in range(len(self))}


def model(seed=0, **fields):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = registry.find("backbones", "xlnet").config(
        "tiny", {"d_model": 32, "n_head": 2, "d_inner": 64, "dropout": 0.0, **fields}, Words())
    made = AutoModelForCausalLM.from_config(config)
    for parameter in made.parameters():  # biases and norms too: nothing may hide behind a zero
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def rows(*texts):
    """A batch of rows, each of some documents of so many tokens."""
    rng = np.random.default_rng(0)
    objective = PermutedLM(plm_probability=0.4)
    drawn = [join([objective.draw(rng.integers(7, 60, length).astype(np.uint16), rng, Words()) for length in text])
             for text in texts]
    return objective.collate(drawn, Words())


@pytest.mark.parametrize("texts", [[(14,), (14,)], [(20,), (3,), (9,)], [(7, 9), (4, 5, 6), (12,)]],
                         ids=["full", "padded", "packed"])
@pytest.mark.parametrize("fields", [{}, {"bi_data": True}, {"clamp_len": 4}], ids=["usual", "bi_data", "clamped"])
def test_two_streams_give_transformers_own_loss_and_gradients(texts, fields):
    if fields.get("bi_data"):
        texts = [*texts, (8,)][: len(texts) // 2 * 2]  # one half of the rows is read backwards
    batch, family, objective = rows(*texts), registry.find("backbones", "xlnet"), PermutedLM()
    own = model(**fields)
    ours = copy.deepcopy(own)
    loss = objective.loss(ours, batch, family)["loss"]
    inputs = dict(batch)
    documents = inputs.pop("documents", None)
    if documents is not None:
        inputs["perm_mask"] = torch.maximum(
            inputs["perm_mask"], (documents[:, :, None] != documents[:, None, :]).float())
    expected = own(**inputs, use_mems=False).loss * objective.targets(batch)["loss"]
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=1e-4)
    loss.backward()
    expected.backward()
    there = dict(own.named_parameters())
    for name, parameter in ours.named_parameters():
        if there[name].grad is not None:
            torch.testing.assert_close(parameter.grad, there[name].grad, rtol=1e-3, atol=1e-3, msg=name)


def test_without_the_shortcut_a_model_runs_as_transformers_has_it():
    batch, family, objective = rows((14,), (9,)), registry.find("backbones", "xlnet"), PermutedLM()
    ours = model()
    with torch.no_grad():
        on = objective.loss(ours, batch, family)["loss"]
        with shortcuts.only([name for name in shortcuts.ALL if name != "two_streams"]):
            off = objective.loss(ours, batch, family)["loss"]
            shape = ours.transformer.relative_positional_encoding(4, 4, bsz=3).shape
    torch.testing.assert_close(on, off, rtol=2e-5, atol=1e-4)
    assert shape == (8, 3, 32)
    assert ours.transformer.relative_positional_encoding(4, 4, bsz=3).shape == (8, 1, 32)


@pytest.mark.parametrize("inputs", [{}, {"attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3])},
                                    {"token_type_ids": torch.tensor([[0] * 5 + [1] * 4] * 2)}])
def test_a_stream_alone_gives_transformers_own_states(inputs):
    own = model().eval()
    ours = copy.deepcopy(own)
    quicken(ours)
    ids = torch.arange(18).reshape(2, 9) + 7
    torch.testing.assert_close(ours(ids, **inputs).logits, own(ids, **inputs).logits, rtol=1e-4, atol=1e-4)


def test_what_was_read_before_is_remembered_as_in_transformers():
    own = model(mem_len=8).eval()
    ours = copy.deepcopy(own)
    quicken(ours)
    ids = torch.arange(18).reshape(2, 9) + 7
    first, there = ours(ids, use_mems=True), own(ids, use_mems=True)
    again, expected = ours(ids + 1, mems=first.mems, use_mems=True), own(ids + 1, mems=there.mems, use_mems=True)
    torch.testing.assert_close(again.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_scores_by_distance_move_to_their_keys():
    by_distance = torch.arange(12).reshape(2, 6)  # 2 queries; distances 4 3 2 1 0 -1 to 4 keys
    assert shifted(by_distance, 4).tolist() == [[2, 3, 4, 5], [7, 8, 9, 10]]
    four = torch.arange(32).reshape(1, 1, 4, 8)
    whole = shifted(four, 4)[0, 0]
    assert whole.tolist() == [[4, 5, 6, 7], [11, 12, 13, 14], [18, 19, 20, 21], [25, 26, 27, 28]]
    at = shifted_at(four[:, :, [3, 1]], torch.tensor([[3, 1]]), 4)
    assert at[0, 0].tolist() == [whole[3].tolist(), whole[1].tolist()]


def test_the_second_stream_has_as_many_queries_as_targets():
    """17 of 40 positions: fewer products than with two full streams (0.79 of all)."""

    def products(some, batch):
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad(), profile(with_flops=True) as seen:
            some(**inputs, use_mems=False)
        return sum(event.flops for event in seen.key_averages())

    batch, own = rows((38,), (38,)), model()
    ours = copy.deepcopy(own)
    quicken(ours)
    assert products(ours, batch) < 0.85 * products(own, batch)


def test_it_computes_in_the_half_precision_of_older_gpus():
    """fp16 ends at 65,504: what isn't seen has the least score of the type."""
    batch, family, objective = rows((20,), (3,), (9,)), registry.find("backbones", "xlnet"), PermutedLM()
    made = model()
    with torch.no_grad():
        whole = objective.loss(made, batch, family)["loss"]
        with torch.autocast("cpu", torch.float16):
            half = objective.loss(made, batch, family)["loss"]
    assert float(half) == pytest.approx(float(whole), rel=0.01)
