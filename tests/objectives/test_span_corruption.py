"""Span corruption: what is taken out of the input stands in the labels, in the paper's numbers."""

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.shared.denoisers import UL2, Denoiser, parts, span_mask
from llmkit.objectives.span_corruption import SpanCorruption, sentinels, with_sentinels
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

calm = settings(deadline=None, max_examples=60)  # a busy machine is no defect
PAD, END, FIRST = 0, 1, 1000
MARKS = tuple(range(FIRST + 99, FIRST - 1, -1))  # T5's own run backwards


class Words:
    """A tokenizer of which only ids are needed."""

    pad_token_id, eos_token_id = PAD, END

    def __init__(self, ids=MARKS):
        self.ids = ids

    def get_vocab(self):
        return {f"<extra_id_{i}>": number for i, number in enumerate(self.ids)} | {"<extra_id_x>": 5}


@pytest.fixture(scope="module")
def unigram():
    return tokenizers.train(stories(80), "unigram", 200)


def random_spans_helper(inputs_length, noise_density, mean):
    """The lengths of seqio's and t5's function of this name, as published (t5/data/preprocessors.py)."""

    def lengths(tokens_length):
        num_noise_tokens = round(tokens_length * noise_density)
        num_nonnoise_tokens = tokens_length - num_noise_tokens
        num_noise_spans = round(num_noise_tokens / mean)
        return num_nonnoise_tokens + num_noise_spans + 1, num_noise_tokens + num_noise_spans + 1

    tokens_length = inputs_length
    while lengths(tokens_length + 1)[0] <= inputs_length:
        tokens_length += 1
    return tokens_length, lengths(tokens_length)[1]


# ---- literal ----------------------------------------------------------------------------------------------------


def test_each_hidden_run_becomes_one_sentinel():
    ids = np.array([1, 2, 3, 4, 5, 6, 7])
    hidden = np.array([False, True, True, False, False, True, False])
    assert with_sentinels(ids, hidden, (91, 92)).tolist() == [1, 91, 4, 5, 92, 7]
    assert with_sentinels(ids, ~hidden, (91, 92, 93)).tolist() == [91, 2, 3, 92, 6, 93]


def test_the_papers_example(unigram):
    """Figure 2: Thank you <X> me to your party <Y> week."""
    text = unigram("the cat saw the moon . a dog saw a hat .", add_special_tokens=False)["input_ids"][:10]
    drawn = SpanCorruption(noise_density=0.4, mean_noise_span_length=2).draw(
        np.array(text, np.uint16), np.random.default_rng(4), unigram)
    inputs, labels = (unigram.convert_ids_to_tokens(drawn[name]) for name in ("input_ids", "labels"))
    first, second = inputs.index("<extra_id_0>"), inputs.index("<extra_id_1>")
    assert first < second
    assert "<extra_id_2>" not in inputs
    assert labels[0] == "<extra_id_0>"
    assert inputs[-1] == labels[-1] == "</s>"
    middle = labels.index("<extra_id_1>")
    assert [*inputs[:first], *labels[1:middle], *inputs[first + 1 : second], *labels[middle + 1 : -1],
            *inputs[second + 1 : -1]] == unigram.convert_ids_to_tokens(text)
    assert drawn["decoder_input_ids"].tolist() == [unigram.pad_token_id, *drawn["labels"][:-1]]


def test_an_example_by_hand():
    drawn = SpanCorruption(noise_density=0.5, mean_noise_span_length=2).draw(
        np.array([11, 12, 13, 14], np.uint16), np.random.default_rng(0), Words())
    assert {name: ids.tolist() for name, ids in drawn.items()} == {
        "input_ids": [11, 12, 1099, END], "labels": [1099, 13, 14, END], "decoder_input_ids": [PAD, 1099, 13, 14]}


# ---- nothing is lost --------------------------------------------------------------------------------------------


def restored(inputs, labels):
    """Put the spans back where their sentinels stand."""
    spans, mark = {}, None
    for token in labels[:-1]:
        if token >= FIRST:
            mark = token
            spans[mark] = []
        else:
            spans[mark].append(token)
    return [token for each in inputs[:-1] for token in (spans[each] if each >= FIRST else [each])]


@pytest.mark.parametrize("options", [{}, {"noise_density": 0.5, "mean_noise_span_length": 8.0},
                                     {"noise_density": 0.9, "mean_noise_span_length": 20.0},
                                     {"noise_density": 0.02, "mean_noise_span_length": 1.0}])
def test_the_text_of_any_length_can_be_put_together_again(options):
    objective, tokenizer, rng = SpanCorruption(**options), Words(), np.random.default_rng(0)
    for length in range(2, 601):
        ids = np.arange(2, length + 2, dtype=np.uint16)
        drawn = objective.draw(ids, rng, tokenizer)
        inputs, labels = drawn["input_ids"].tolist(), drawn["labels"].tolist()
        assert restored(inputs, labels) == ids.tolist()
        hidden, spans = objective.counts(length)
        assert (len(inputs), len(labels)) == (length - hidden + spans + 1, hidden + spans + 1)
        assert (len(inputs), len(labels)) == objective.lengths(length)
        assert [token for token in inputs if token >= FIRST] == list(MARKS[:spans])
        assert [token for token in labels if token >= FIRST] == list(MARKS[:spans])


@calm
@given(st.integers(2, 200), st.data())
def test_a_mask_has_so_many_runs_of_so_many_tokens(length, data):
    hidden = data.draw(st.integers(1, length - 1))
    spans = data.draw(st.integers(1, min(hidden, length - hidden)))
    mask = span_mask(length, hidden, spans, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert (len(mask), mask.sum()) == (length, hidden)
    assert not mask[0]
    assert mask[-1]
    assert (mask[1:] & ~mask[:-1]).sum() == spans


def test_every_way_to_cut_is_as_likely():
    rng = np.random.default_rng(0)
    ways = [tuple(parts(5, 3, rng).tolist()) for _ in range(6000)]
    counts = {way: ways.count(way) for way in set(ways)}
    assert set(counts) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert all(abs(count - 1000) < 150 for count in counts.values())  # five standard deviations
    assert parts(1, 1, rng).tolist() == [1]
    assert parts(4, 4, rng).tolist() == [1, 1, 1, 1]


# ---- the paper's numbers ----------------------------------------------------------------------------------------


def test_rows_of_512_are_made_of_568_tokens_and_have_114_targets():
    objective = SpanCorruption()
    assert objective.layout(Words(), 512, "none").length == 568
    assert objective.lengths(568) == (512, 114)
    assert objective.counts(568) == (85, 28)


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.15, 2.0), (0.1, 5.0), (0.25, 10.0), (0.5, 3.0)])
def test_lengths_are_those_of_t5s_own_code(density, mean):
    objective, tokenizer = SpanCorruption(density, mean), Words(tuple(range(FIRST, FIRST + 999)))
    for length in range(64, 700, 7):  # below, theirs may ask for no span at all
        layout = objective.layout(tokenizer, length, "none")
        assert (layout.length, objective.lengths(layout.length)[1]) == random_spans_helper(length, density, mean)


@calm
@given(st.integers(3, 300), st.floats(0.05, 0.9), st.floats(1, 10))
@example(128, 0.15, 3.0)
@example(512, 0.15, 3.0)
def test_a_corrupted_row_fills_max_length(length, density, mean):
    objective = SpanCorruption(density, mean)
    layout = objective.layout(Words(tuple(range(FIRST, FIRST + 999))), length, "none")
    # where every clean token has a span of its own, one token more makes the row two longer
    clean, spans = layout.length - objective.counts(layout.length)[0], objective.counts(layout.length)[1]
    assert length - objective.lengths(layout.length)[0] <= (clean == spans)
    assert objective.lengths(layout.length + 1)[0] > length
    sizes = np.arange(2, layout.length + 1)
    assert layout.positions(sizes).tolist() == [objective.lengths(int(n))[0] for n in sizes]


# ---- sentinels --------------------------------------------------------------------------------------------------


def test_sentinels_are_found_by_name(unigram):
    from transformers import T5Tokenizer

    theirs = T5Tokenizer(vocab=[("<pad>", 0), ("</s>", 0), ("<unk>", 0), ("▁", -2), ("a", -3)], extra_ids=3)
    for tokenizer, count in ((unigram, 100), (theirs, 3)):
        names = tokenizer.convert_ids_to_tokens(list(sentinels(tokenizer)))
        assert names == [f"<extra_id_{i}>" for i in range(count)]
    ids = np.arange(2, 42, dtype=np.uint16)
    forwards, backwards = Words(tuple(range(FIRST, FIRST + 100))), Words()
    one, two = (SpanCorruption().draw(ids, np.random.default_rng(0), words) for words in (forwards, backwards))
    assert [token for token in one["input_ids"] if token >= FIRST] == [1000, 1001]
    assert [token for token in two["input_ids"] if token >= FIRST] == [1099, 1098]


def test_more_spans_than_sentinels_are_refused():
    with pytest.raises(RequestError, match="rows of 512 have 28 spans, and the tokenizer has 27 sentinels"):
        SpanCorruption().layout(Words(MARKS[:27]), 512, "none")
    assert SpanCorruption().layout(Words(MARKS[:28]), 512, "none").length == 568
    with pytest.raises(RequestError) as error:
        SpanCorruption().layout(Words(()), 512, "none")
    assert str(error.value) == (
        "span_corruption: rows of 512 have 28 spans, and the tokenizer has 0 sentinels (<extra_id_0> …), which T5's "
        "kind has: whoever reads by it never filled such spans. Take another objective (denoising and prefix_lm need "
        "no sentinels), a task, or a tokenizer that has them.")


@pytest.mark.parametrize(("marks", "options"), [
    (2, {}), (27, {}), (1, {}), (5, {"noise_density": 0.5}), (9, {"denoisers": "ul2"})])
def test_the_length_that_is_proposed_where_sentinels_are_few_is_one_that_works(marks, options):
    objective, words = SpanCorruption(**options), Words(MARKS[:marks])
    with pytest.raises(RequestError, match=rf"the tokenizer has {marks} sentinels .*; make data.max_length \d+ or less"
                       ) as error:
        objective.layout(words, 512, "none")
    proposed = int(str(error.value).split("make data.max_length ")[1].split()[0])
    assert objective.layout(words, proposed, "none").room == proposed
    with pytest.raises(RequestError):
        objective.layout(words, proposed + 4, "none")


def test_a_row_too_short_is_refused():
    with pytest.raises(RequestError, match="2 is too short"):
        SpanCorruption().layout(Words(), 2, "none")
    assert SpanCorruption().layout(Words(), 3, "none").length == 2


def test_a_tokenizer_without_what_it_takes_is_refused():
    for role in ("eos", "pad"):
        tokenizer = Words()
        setattr(tokenizer, f"{role}_token_id", None)
        with pytest.raises(RequestError, match=f"no {role} token; span_corruption needs one"):
            SpanCorruption().layout(tokenizer, 32, "none")


# ---- UL2's mixture ------------------------------------------------------------------------------------------------


MODES = {"[NLU]": 2001, "[S2S]": 2002, "[NLG]": 2003}


class Modes(Words):
    """Words that know UL2's modes."""

    def get_vocab(self):
        return super().get_vocab() | MODES

    def convert_tokens_to_ids(self, token):
        return MODES[token]


def test_the_seven_denoisers_are_those_of_the_papers_table():
    """Tay et al. 2023, table 1: R is short and sparse, S the end, X long or dense; every one is as likely."""
    found = [(one.mode, one.mean_noise_span_length, one.noise_density, one.weight) for one in UL2]
    assert found == [
        ("[NLU]", 3, 0.15, 1), ("[NLU]", 8, 0.15, 1), ("[S2S]", None, 0.25, 1),
        ("[NLG]", 3, 0.5, 1), ("[NLG]", 8, 0.5, 1), ("[NLG]", 64, 0.15, 1), ("[NLG]", 64, 0.5, 1)]


@pytest.mark.parametrize(("number", "hidden", "spans"), [
    (0, 77, 26), (1, 77, 10), (3, 256, 85), (4, 256, 32), (5, 77, 1), (6, 256, 4)])
def test_densities_and_spans_of_r_and_x_are_the_tables(number, hidden, spans):
    mask = UL2[number].mask(512, np.random.default_rng(0))
    assert mask.sum() == hidden
    assert (np.diff(np.concatenate([[0], mask.astype(int)])) == 1).sum() == spans


def test_s_hides_the_end_a_quarter_on_average():
    rng = np.random.default_rng(0)
    masks = [UL2[2].mask(512, rng) for _ in range(4000)]
    hidden = np.array([mask.sum() for mask in masks])
    assert all(mask[-n:].all() and not mask[:-n].any() for mask, n in zip(masks, hidden, strict=True))
    assert (hidden.min(), hidden.max()) == (1, 255)
    assert hidden.mean() == pytest.approx(128, abs=6)  # five standard deviations


def test_a_mixture_says_in_front_which_denoiser_it_was_and_loses_nothing():
    objective, tokenizer, rng = SpanCorruption(denoisers="ul2"), Modes(), np.random.default_rng(0)
    length = objective.layout(tokenizer, 128, "none").length
    modes = []
    for size in [*range(2, length + 1), *[length] * 700]:
        ids = np.arange(2, size + 2, dtype=np.uint16)
        drawn = objective.draw(ids, rng, tokenizer)
        mode, *inputs = drawn["input_ids"].tolist()
        modes.append(mode)
        assert restored(inputs, drawn["labels"].tolist()) == ids.tolist()
        assert len(inputs) + 1 <= min(128, objective.lengths(size)[0])
        assert len(drawn["labels"]) <= objective.lengths(size)[1]
    shares = [modes.count(mode) / len(modes) for mode in MODES.values()]
    assert shares == pytest.approx([2 / 7, 1 / 7, 4 / 7], abs=0.08)  # five standard deviations


def test_denoisers_are_drawn_by_their_weights():
    objective = SpanCorruption(denoisers=[Denoiser(0.15, 3.0, "[NLU]", weight=3), Denoiser(0.5, 3.0, "[NLG]")])
    rng, ids = np.random.default_rng(0), np.arange(2, 30, dtype=np.uint16)
    first = [objective.draw(ids, rng, Modes())["input_ids"][0] for _ in range(2000)]
    assert first.count(MODES["[NLU]"]) / 2000 == pytest.approx(0.75, abs=0.05)
    with pytest.raises(ValueError, match="there is none in the list"):
        SpanCorruption(denoisers=[])


def test_missing_sentinels_and_modes_are_added(unigram):
    assert SpanCorruption().missing(unigram) == {}
    assert SpanCorruption(denoisers="ul2").missing(unigram) == {"extra_special_tokens": ["[NLU]", "[S2S]", "[NLG]"]}
    assert len(SpanCorruption(denoisers="ul2").missing(Words(()))["extra_special_tokens"]) == 103


# ---- the loss ---------------------------------------------------------------------------------------------------


def test_the_loss_is_transformers_own(unigram):
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    family = registry.find("backbones", "t5")
    model = AutoModelForSeq2SeqLM.from_config(family.config("tiny", SMALL["t5"] | STILL["t5"], unigram)).eval()
    objective, rng = SpanCorruption(), np.random.default_rng(0)
    rows = [objective.draw(np.array(unigram(story, add_special_tokens=False)["input_ids"], np.uint16), rng, unigram)
            for story in stories(8)]
    for row in rows:
        row["documents"], row["decoder_documents"] = np.zeros_like(row["input_ids"]), np.zeros_like(row["labels"])
    batch = objective.collate(rows, unigram)
    ours = objective.loss(model, batch, family)["loss"]
    # transformers makes decoder_input_ids of the labels by itself
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    assert ours.item() == pytest.approx((theirs * objective.targets(batch)["loss"]).item(), rel=1e-5)
