"""Documents that share a row don't see each other: packed or alone, the losses and gradients are the same."""

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, WORDS, stories

from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.base import join
from llmkit.objectives.prefix_lm import _TwoSided
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

CASES = {
    "bert": "masked_lm", "roberta": "masked_lm", "modernbert": "masked_lm", "gpt2": "causal_lm", "llama": "causal_lm",
    "t5": "span_corruption", "xlnet": "permuted_lm", "gpt2 by prefix": "prefix_lm", "t5 by prefix": "prefix_lm",
    "t5 by denoising": "denoising",
}
"""The family comes first."""


class Made:
    """A tiny model of a family, with corrupted documents for it."""

    def __init__(self, case):
        import transformers

        name = case.split()[0]
        self.family = registry.find("backbones", name)
        self.objective = _TwoSided() if case == "t5 by prefix" else registry.find("objectives", CASES[case])()
        self.tokenizer = tokenizers.train(stories(80), self.family.tokenizer, WORDS[name], special=self.family.special)
        self.tokenizer.add_special_tokens(self.objective.missing(self.tokenizer))
        near = {"local_attention": 4} if name == "modernbert" else {}  # less than a document
        config = self.family.config("tiny", SMALL[name] | STILL[name] | near, self.tokenizer)
        torch.manual_seed(0)
        self.model = getattr(transformers, self.objective.head_for(self.family)).from_config(config)
        for parameter in self.model.parameters():  # far from zero: attention matters
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        layout = self.objective.layout(self.tokenizer, 48, "documents")
        self.segments = []
        for i, story in enumerate(stories(9, seed=5)):
            ids = self.tokenizer(story, add_special_tokens=False)["input_ids"]
            ids = np.array([*layout.before, *ids, *layout.after][: (6, 4, 12, 8, 5, 9, 2, 5, 5)[i]], np.uint16)
            self.segments.append(self.objective.draw(ids, np.random.default_rng(i), self.tokenizer))

    def batch(self, *rows):
        return self.objective.collate([join([self.segments[i] for i in row]) for row in rows], self.tokenizer)

    def loss(self, batch):
        return self.objective.loss(self.model, batch, self.family)["loss"]

    def gradients(self, *batches):
        self.model.zero_grad()
        for batch in batches:
            self.loss(batch).backward()
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module", params=CASES)
def made(request):
    return Made(request.param)


def norm(gradients):
    return torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()


PACKED = {
    "one row without padding": [(0, 1, 2, 3, 4, 5, 6, 7, 8)],
    "rows with padding": [(0, 1, 2), (3, 4, 5, 6), (7, 8)],
    "a row of one document among them": [(2,), (0, 1, 3, 4, 5, 6, 7, 8)],
    "rows of one length": [(0, 7), (8, 0)],
}


@pytest.mark.parametrize("rows", PACKED.values(), ids=PACKED)
def test_packed_and_alone_have_the_same_loss_and_gradients(made, rows):
    packed = made.batch(*rows)
    alone = [made.batch((i,)) for row in rows for i in row]
    assert "documents" in packed
    sizes = {sum(len(made.segments[i]["input_ids"]) for i in row) for row in rows}
    assert bool((packed["documents"] < 0).any()) == (len(sizes) > 1)
    assert not any("documents" in batch for batch in alone)
    assert made.objective.targets(packed)["loss"] == sum(made.objective.targets(batch)["loss"] for batch in alone)
    assert made.loss(packed).item() == pytest.approx(sum(made.loss(batch).item() for batch in alone), rel=1e-5)
    ours, theirs = made.gradients(packed), made.gradients(*alone)
    assert ours.keys() == theirs.keys()
    assert norm(ours) == pytest.approx(norm(theirs), rel=1e-5)
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], rtol=1e-4, atol=1e-5 * norm(ours)), name


def test_one_batch_padded_is_one_by_one(made):
    rows = [(i,) for i in range(9)]
    padded = made.batch(*rows)
    assert "documents" not in padded
    assert "attention_mask" in padded
    assert made.loss(padded).item() == pytest.approx(sum(made.loss(made.batch(row)).item() for row in rows), rel=1e-5)


def test_a_documents_loss_does_not_change_with_its_neighbours(made):
    def part(rows, i):
        """The loss of document i alone, in a row with others."""
        batch = made.batch(rows)
        number = batch["decoder_documents" if "decoder_documents" in batch else "documents"]
        if "target_mapping" in batch:  # labels of targets, not of places
            number = torch.einsum("btl,bl->bt", batch["target_mapping"], number.float())
        batch["labels"] = torch.where(number == rows.index(i), batch["labels"], -100)
        with torch.no_grad():
            return made.loss(batch).item()

    for i in (2, 3):
        with torch.no_grad():
            alone = made.loss(made.batch((i,))).item()
        for rows in ((i, 0), (0, i), (5, i, 7), (1, 4, 6, i), (7, 5, i)):
            assert part(rows, i) == pytest.approx(alone, rel=1e-5)


def test_without_isolation_the_loss_would_differ(made):
    """The tests above can fail: one document of all is another loss."""
    batch = made.batch((0, 1, 2, 3))
    apart = made.loss(batch).item()
    together = {name: torch.zeros_like(ids) if "documents" in name else ids for name, ids in batch.items()}
    assert made.loss(together).item() != pytest.approx(apart, rel=1e-5)


def test_attention_that_adds_the_mask_to_its_scores_is_refused(made):
    """Eager attention would take a boolean mask for the numbers 0 and 1, and let documents see each other."""
    if made.family.attention == "eager":
        pytest.skip("XLNet's own takes numbers")
    made.model.set_attn_implementation("eager")
    try:
        with pytest.raises(RequestError, match=r"data\.packing: documents needs .*sdpa"):
            made.loss(made.batch((0, 1)))
    finally:
        made.model.set_attn_implementation("sdpa")
