"""Replaced-token detection: two networks, their losses by hand, and how well made-up tokens are found."""

import copy

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.base import Setup, Text
from llmkit.objectives.replaced_token import ReplacedToken, on_ladder, real, sample, smaller
from llmkit.recipe import registry

calm = settings(deadline=None, max_examples=40)  # a busy machine is no defect
ELECTRA = registry.find("backbones", "electra")


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 120)


@pytest.fixture(scope="module")
def both(wordpiece):
    """Discriminator and generator as one module, with weights that say something."""
    from transformers import AutoModelForPreTraining

    torch.manual_seed(0)
    config = ELECTRA.config("tiny", SMALL["electra"] | STILL["electra"], wordpiece)
    assembled = ReplacedToken().assemble(AutoModelForPreTraining.from_config(config), ELECTRA, wordpiece, None)
    for parameter in assembled.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return assembled.eval()


def segments(tokenizer, *sizes):
    whole = tokenizer(" ".join(stories(40)), add_special_tokens=False)["input_ids"]
    return [np.array(whole[7 * i : 7 * i + size], np.uint16) for i, size in enumerate(sizes)]


def batch_of(tokenizer, rows, **options):
    """Rows of one or more segments each."""
    text = Text(ReplacedToken(**options), rows, Setup(tokenizer, ELECTRA, 64, "documents", seed=0))
    return ReplacedToken().collate([text.draw(row, np.random.default_rng(row)) for row in range(len(rows))], tokenizer)


# ---- literal ----------------------------------------------------------------------------------------------------


def test_some_hidden_tokens_are_masks_and_the_rest_stays(wordpiece):
    (ids,) = segments(wordpiece, 40)
    for share, masked in ((1.0, 6), (0.0, 0)):
        row = ReplacedToken(mask_replace_prob=share).draw(ids, np.random.default_rng(0), wordpiece)
        hidden = row["labels"] != -100
        whole = [wordpiece.cls_token_id, *ids, wordpiece.sep_token_id]
        assert hidden.sum() == 6  # 15 % of 40
        assert (row["input_ids"] == wordpiece.mask_token_id).sum() == masked
        assert np.where(hidden, row["labels"], row["input_ids"]).tolist() == whole


def test_a_row_has_one_seed_however_many_documents_it_holds(wordpiece):
    batch = batch_of(wordpiece, [segments(wordpiece, 9, 12), segments(wordpiece, 5)])
    assert batch["seed"].shape == (2, 1)
    assert len(set(batch["seed"][:, 0].tolist())) == 2
    again = batch_of(wordpiece, [segments(wordpiece, 9, 12), segments(wordpiece, 5)])
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_a_number_between_0_and_1_chooses_a_token():
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.5]]).repeat(3, 1)
    seeds = torch.tensor([[5], [6]])
    numbers = [torch.rand((2, 1), generator=torch.Generator().manual_seed(5), dtype=torch.float64),
               torch.rand((1, 1), generator=torch.Generator().manual_seed(6), dtype=torch.float64)]
    ladder = logits[0].double().softmax(-1).cumsum(-1)
    expected = [int((ladder < number).sum()) for number in torch.cat(numbers)[:, 0]]
    assert sample(logits, torch.tensor([2, 1]), seeds, "multinomial").tolist() == expected


@pytest.mark.parametrize("words", [5, 127, 128, 129, 256, 1000])
def test_a_token_is_found_in_blocks_as_on_one_long_ladder(words):
    logits = 3 * torch.randn(400, words, generator=torch.Generator().manual_seed(words))
    heights = torch.rand(400, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    heights[:2] = torch.tensor([[0.0], [1.0]])
    ladder = logits.double().softmax(-1).cumsum(-1)
    plain = (ladder < heights * ladder[:, -1:]).sum(-1)
    same = on_ladder(logits.softmax(-1), heights) == plain
    assert same.float().mean() > 0.995  # an edge may fall to the other side
    assert on_ladder(logits[:2].softmax(-1), heights[:2]).tolist() == [0, words - 1]


# ---- properties -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["multinomial", "gumbel"])
def test_tokens_are_drawn_as_often_as_the_generator_says(way):
    share = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    drawn = sample(share.log().expand(20_000, 5), torch.tensor([20_000]), torch.tensor([[3]]), way)
    assert np.bincount(drawn, minlength=5) / 20_000 == pytest.approx(share.numpy(), abs=0.018)  # five deviations


@calm
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 1000),
       st.sampled_from(["multinomial", "gumbel"]))
def test_a_rows_samples_do_not_depend_on_its_neighbours(counts, seed, way):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(counts), 11, generator=generator)
    seeds = torch.randint(0, 2**62, (len(counts), 1), generator=generator)
    together = sample(logits, torch.tensor(counts), seeds, way).split(counts)
    for i, part in enumerate(logits.split(counts)):
        assert sample(part, torch.tensor(counts[i : i + 1]), seeds[i : i + 1], way).tolist() == together[i].tolist()


# ---- by hand ----------------------------------------------------------------------------------------------------


def by_hand(both, wordpiece, rows, way):
    """One document at a time through two models that know nothing of each other: sums and counts."""
    generator, discriminator = copy.deepcopy(both.generator), copy.deepcopy(both.discriminator)
    text = Text(ReplacedToken(), rows, Setup(wordpiece, ELECTRA, 64, "documents", seed=0))
    told = found = 0.0
    counts = dict.fromkeys(("right", "hidden", "hits", "said", "made_up", "agreed", "tokens"), 0)
    for number in range(len(rows)):
        row = text.draw(number, np.random.default_rng(number))
        ids, labels = torch.from_numpy(row["input_ids"]), torch.from_numpy(row["labels"])
        logits = []
        for document in range(int(row["documents"].max()) + 1):
            own = torch.from_numpy(row["documents"] == document)
            here = generator(ids[own][None]).logits[0]
            logits.append(here[labels[own] != -100])
        hidden = labels != -100
        guess = torch.cat(logits)
        told += cross_entropy(guess, labels[hidden], reduction="sum").item()
        original = torch.where(hidden, labels, ids)
        corrupt = original.clone()
        corrupt[hidden] = sample(guess, hidden.sum()[None], torch.from_numpy(row["seed"])[None], way)
        fake = corrupt != original
        for document in range(int(row["documents"].max()) + 1):
            own = torch.from_numpy(row["documents"] == document)
            doubt = discriminator(corrupt[own][None]).logits[0]
            found += binary_cross_entropy_with_logits(doubt, fake[own].float(), reduction="sum").item()
            said = doubt > 0
            for name, value in (("hits", said & fake[own]), ("said", said), ("made_up", fake[own]),
                                ("agreed", said == fake[own]), ("tokens", own[own])):
                counts[name] += int(value.sum())
        counts["right"] += int((guess.argmax(-1) == labels[hidden]).sum())
        counts["hidden"] += int(hidden.sum())
    return told, found, counts


@pytest.mark.parametrize("way", ["multinomial", "gumbel"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_losses_are_those_of_two_models_by_hand(both, wordpiece, packed, way):
    parts = segments(wordpiece, 21, 9, 14, 30, 6)
    rows = [parts[:2], parts[2:3], parts[3:]] if packed else [[part] for part in parts]
    objective = ReplacedToken(sampling=way)
    batch = batch_of(wordpiece, rows)
    assert ("documents" in batch) == packed
    with torch.no_grad():
        losses, ((counts, _),) = objective.judge(both, batch, ELECTRA)
        told, found, expected = by_hand(both, wordpiece, rows, way)
    assert losses["generator"].item() == pytest.approx(told, rel=1e-5)
    assert losses["discriminator"].item() == pytest.approx(found, rel=1e-5)
    assert counts == list(expected.values())
    assert expected["made_up"] > 3  # otherwise there is nothing to find
    asked = objective.targets(batch)
    assert (int(asked["generator"]), int(asked["discriminator"])) == (expected["hidden"], expected["tokens"])
    assert expected["tokens"] == sum(len(part) + 2 for part in parts)  # no padding among them


def test_a_sample_that_is_the_original_counts_as_real(wordpiece):
    """Clark et al. 2020, §2: a generator that is always right leaves nothing to find."""

    from transformers.utils import ModelOutput

    class Fixed(torch.nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.head = torch.nn.Identity()
            self.logits = logits

        def forward(self, **inputs):
            return ModelOutput(logits=self.head(self.logits))

    class Family(ELECTRA):
        heads = {"AutoModelForMaskedLM": "head"}
        plain = False

        @classmethod
        def outputs(cls, model, batch):
            return model(**batch)

    batch = {"input_ids": torch.tensor([[2, 4, 4, 3]]), "labels": torch.tensor([[-100, 7, 8, -100]]),
             "seed": torch.tensor([[0]])}
    sure = torch.full((1, 4, 10), -50.0)
    sure[0, 1, 7] = sure[0, 2, 9] = 50.0  # right, wrong
    model = torch.nn.Module()
    model.generator, model.discriminator = Fixed(sure), Fixed(torch.tensor([[-2.0, 1.0, 3.0, -1.0]]))
    losses, ((counts, _),) = ReplacedToken().judge(model, batch, Family)
    doubt = [2.0, -1.0, 3.0, 1.0]  # towards what is true of each: real, real, made up, real
    assert losses["discriminator"].item() == pytest.approx(sum(np.log1p(np.exp(-d)) for d in doubt), rel=1e-5)
    assert losses["generator"].item() == pytest.approx(100, rel=1e-5)
    assert counts == [1, 2, 1, 2, 1, 3, 4]


def test_the_generator_learns_from_its_own_loss_alone(both, wordpiece):
    """No gradient goes through the samples; embeddings are shared and learn from both."""
    batch = batch_of(wordpiece, [[part] for part in segments(wordpiece, 20, 30)])
    for head, other in (("discriminator", "generator"), ("generator", "discriminator")):
        both.zero_grad()
        ReplacedToken().loss(both, batch, ELECTRA)[head].backward()
        moved = {name for name, p in both.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert not any(name.startswith(f"{other}.electra.encoder") for name in moved)
        assert "discriminator.electra.embeddings.word_embeddings.weight" in moved
    assert both.generator.electra.embeddings.word_embeddings.weight is (
        both.discriminator.electra.embeddings.word_embeddings.weight)
    both.zero_grad()


def test_the_loss_that_is_minimised_is_the_papers():
    assert ReplacedToken().weights == {"generator": 1.0, "discriminator": 50.0}
    assert ReplacedToken(discriminator_weight=20).weights["discriminator"] == 20


# ---- networks ---------------------------------------------------------------------------------------------------


def test_a_generator_is_narrower_or_less_deep(wordpiece):
    config = ELECTRA.config("base", {"embedding_size": 64}, wordpiece)
    small = smaller(config, 1 / 3)
    assert (small.hidden_size, small.num_attention_heads, small.intermediate_size) == (256, 4, 1024)
    assert (small.embedding_size, small.num_hidden_layers) == (64, 12)
    bert = registry.find("backbones", "bert").config("base", {}, wordpiece)
    small = smaller(bert, 1 / 3)
    assert (small.hidden_size, small.num_hidden_layers) == (768, 4)


def test_what_is_padding_is_told_in_every_kind_of_batch():
    ids = torch.tensor([[5, 6, 0]])
    assert real({"input_ids": ids}).tolist() == [[True, True, True]]
    assert real({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0]])}).tolist() == [[True, True, False]]
    assert real({"input_ids": ids, "documents": torch.tensor([[0, 1, -1]])}).tolist() == [[True, True, False]]


# ---- figures ----------------------------------------------------------------------------------------------------


def test_figures_are_of_all_batches():
    """Right, hidden; hits, said, made up; agreed, tokens."""
    pairs = [([1, 4, 2, 3, 4, 17, 20], None), ([1, 4, 1, 1, 4, 17, 20], None)]
    figures = ReplacedToken().metrics({"generator": np.log(9), "discriminator": 0.2, "loss": 1.0}, pairs)
    assert figures == pytest.approx({
        "generator": np.log(9), "discriminator": 0.2, "loss": 1.0, "generator_perplexity": 9.0,
        "generator_accuracy": 0.25, "accuracy": 0.85, "replaced": 0.2, "precision": 0.75, "recall": 0.375, "f1": 0.5})
    nothing = ReplacedToken().metrics({"generator": 0.0, "discriminator": 0.1, "loss": 5.0}, [([0] * 5 + [9, 9], None)])
    assert (nothing["f1"], nothing["precision"], nothing["recall"], nothing["accuracy"]) == (0, 0, 0, 1)
