"""Causal language modelling: labels are the inputs one step ahead, and the loss is transformers' own."""

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories

from llmkit import registry
from llmkit.data import tokenizer as tokenizers
from llmkit.data.rows import arrange
from llmkit.data.sources import open_source
from llmkit.data.tokens import tokenize
from llmkit.objectives.base import Setup, Text, only_at, part
from llmkit.objectives.causal_lm import CausalLM
from llmkit.recipe import Source


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(stories(80), "bpe", 300)


@pytest.fixture(scope="module")
def gpt2(bpe):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    family = registry.find("backbones", "gpt2")
    return AutoModelForCausalLM.from_config(family.config("tiny", SMALL["gpt2"] | STILL["gpt2"], bpe)).eval()


def rows(lines, tokenizer, tmp_path, packing, length=16):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    setup = Setup(tokenizer, registry.find("backbones", "gpt2"), length, packing, seed=0)
    objective = CausalLM()
    documents = tokenize(open_source(Source(str(path)), "line"), tokenizer)
    return Text(objective, arrange(documents, objective.layout(tokenizer, length, packing), packing), setup)


def test_labels_are_the_next_tokens(bpe):
    drawn = CausalLM().draw(np.array([0, 7, 8, 9], np.uint16), np.random.default_rng(0), bpe)
    assert {name: ids.tolist() for name, ids in drawn.items()} == {"input_ids": [0, 7, 8], "labels": [7, 8, 9]}


def test_a_document_is_predicted_from_its_begin_to_its_end(bpe, tmp_path):
    end = bpe.eos_token_id
    text = rows(["the cat", "a dog"], bpe, tmp_path, "none")
    drawn = text.draw(0, np.random.default_rng(0))
    ids = bpe("the cat")["input_ids"]
    assert drawn["input_ids"].tolist() == [end, *ids]
    assert drawn["labels"].tolist() == [*ids, end]


def test_packed_documents_start_again_each(bpe, tmp_path):
    end, one, two = bpe.eos_token_id, bpe("the cat")["input_ids"], bpe("a dog")["input_ids"]
    text = rows(["the cat", "a dog"], bpe, tmp_path, "documents", length=len(one) + len(two) + 2)
    assert len(text) == 1
    drawn = text.draw(0, np.random.default_rng(0))
    assert drawn["input_ids"].tolist() == [end, *one, end, *two]
    assert drawn["labels"].tolist() == [*one, end, *two, end]
    assert drawn["documents"].tolist() == [0] * (len(one) + 1) + [1] * (len(two) + 1)


def test_a_row_has_no_more_positions_than_max_length(bpe, tmp_path):
    for packing in ("blocks", "documents", "none"):
        text = rows(stories(30), bpe, tmp_path, packing)
        sizes = [len(text.draw(i, np.random.default_rng(0))["input_ids"]) for i in range(len(text))]
        assert max(sizes) == 16
        if packing == "blocks":
            assert sizes[:-1] == [16] * (len(sizes) - 1)


def test_the_loss_is_transformers_own(bpe, gpt2, tmp_path):
    text = rows(stories(12), bpe, tmp_path, "none", length=24)
    drawn = [text.draw(i, np.random.default_rng(0)) for i in range(len(text))]
    objective, family = CausalLM(), registry.find("backbones", "gpt2")
    batch = objective.collate(drawn, bpe)
    ours = objective.loss(gpt2, batch, family)["loss"]
    # transformers shifts by itself: its labels are the whole segment, -100 at padding
    inputs, labels = batch["input_ids"], batch["labels"]
    whole = torch.cat([inputs[:, :1], labels], 1)
    shown = torch.cat([inputs, inputs[:, -1:]], 1)
    shown[:, 1:] = torch.where(labels >= 0, labels, shown[:, 1:])
    mask = torch.cat([batch["attention_mask"][:, :1], batch["attention_mask"]], 1)
    theirs = gpt2(input_ids=shown, attention_mask=mask, labels=whole).loss * objective.targets(batch)["loss"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_seeing_targets_only_leaves_the_models_hooks_as_they_were(gpt2):
    head, calls = gpt2.lm_head, []
    own = head.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape))
    wanted = torch.tensor([[True, False, True]])
    ids = torch.tensor([[1, 2, 3]])
    whole = gpt2(input_ids=ids).logits
    before = dict(head._forward_pre_hooks)
    with only_at(gpt2, "lm_head", wanted):
        assert torch.allclose(gpt2(input_ids=ids).logits, whole[wanted], atol=1e-6)
    assert dict(head._forward_pre_hooks) == before
    with pytest.raises(IndexError), only_at(gpt2, "lm_head", torch.ones(1, 9, dtype=torch.bool)):
        gpt2(input_ids=ids)
    assert dict(head._forward_pre_hooks) == before
    assert gpt2(input_ids=ids).logits.shape == whole.shape
    own.remove()
    assert calls


def test_a_part_is_found_under_wrappers(gpt2):
    assert part(torch.nn.Sequential(torch.nn.ModuleDict({"inner": gpt2})), "lm_head") is gpt2.lm_head
    assert part(gpt2, "lm_head") is gpt2.lm_head
