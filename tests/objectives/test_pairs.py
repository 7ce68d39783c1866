"""Pairs of segments: what follows what, what was swapped, and the losses of both of BERT's heads."""

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import tokenizer as tokenizers
from llmkit.data.sentences import sentences
from llmkit.data.sources import open_source
from llmkit.data.tokens import Documents, marked, tokenize
from llmkit.objectives.base import Setup
from llmkit.objectives.masked_lm_next_sentence import MaskedLMNextSentence
from llmkit.objectives.next_sentence import NextSentence
from llmkit.objectives.sentence_order import SentenceOrder
from llmkit.objectives.shared.pairs import Rows, framed, next_pair, order_pair, slices, truncate
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError

calm = settings(deadline=None, max_examples=40)


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 120)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Documents of one to six sentences, a sentence a line."""
    path = tmp_path_factory.mktemp("pairs") / "text.txt"
    path.write_text("\n\n".join(story.replace(" . ", " .\n") for story in stories(60)) + "\n")
    return open_source(Source(str(path)), "paragraph")


@pytest.fixture(scope="module")
def rows(source, wordpiece):
    return Rows(tokenize(marked([source], None, "auto")[0], wordpiece), 29)


def setup_for(tokenizer, max_length=32):
    return Setup(tokenizer, registry.find("backbones", "bert"), max_length, "none", seed=0)


def joined(a, b):
    return np.concatenate([a, b]).tolist()


@pytest.mark.parametrize(("text", "found"), [
    ("Pi is 3.14. Ask Dr. J. Smith! “Why?” he said.", ["Pi is 3.14.", "Ask Dr. J. Smith!", "“Why?”", "he said."]),
    ("今天下雨。“真的？”他问；没人回答……", ["今天下雨。", "“真的？”", "他问；", "没人回答……"]),
    ("the cat sat . it slept .", ["the cat sat .", "it slept ."]),
    ("one. two.\n three. ", ["one. two.", "three."]),
    ("no end", ["no end"]),
])
def test_sentences_end_at_lines_or_at_punctuation(text, found):
    assert sentences(text) == found


@calm
@given(st.text(alphabet="ab. !?。…”\"\n", max_size=60))
def test_no_character_but_space_is_lost_between_sentences(text):
    for way in ("auto", "lines", "punctuation"):
        assert "".join("".join(sentences(text, way)).split()) == "".join(text.split())


@calm
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(4, 50))
def test_rows_hold_every_token_and_end_between_sentences_where_they_can(lengths, room):
    edges = np.concatenate([[0], np.cumsum(lengths)])
    found = slices(edges, room)
    if not found:
        assert len(lengths) == 1 and lengths[0] < 8
        return
    seen = np.zeros(edges[-1], bool)
    for start, stop in found:
        assert 2 <= stop - start <= 2 * room
        seen[start:stop] = True
    assert seen.all()


@calm
@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 40))
def test_the_longer_segment_is_cut_as_bert_does(a, b, room):
    x, y = a, b
    while x + y > room:  # truncate_seq_pair of create_pretraining_data.py
        x, y = (x - 1, y) if x > y else (x, y - 1)
    one, two = truncate(np.arange(a), np.arange(b), room, np.random.default_rng(0))
    assert (len(one), len(two)) == (x, y)
    assert (np.diff(one) == 1).all() and (np.diff(two) == 1).all()


def test_b_follows_a_or_is_of_another_document(rows):
    labels = []
    for seed in range(40):
        for row in range(len(rows)):
            rng = np.random.default_rng((seed, row))
            a, b, label = next_pair(rows, row, rng)
            labels.append(label)
            assert min(len(a), len(b)) >= 1 and len(a) + len(b) <= 29
            whole = rows[row].tolist()
            if label == 0 and len(whole) <= 29:
                assert joined(a, b) == whole
                assert len(a) in rows.cuts(row)
            if label == 1:
                assert rows.document[rows.elsewhere(row, np.random.default_rng(seed))] != rows.document[row]
    assert abs(np.mean(labels) - 0.5) < 5 * 0.5 / len(labels) ** 0.5


@calm
@given(st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=6), min_size=2, max_size=8), st.integers(6, 30),
       st.integers(0, 10_000))
def test_what_does_not_follow_is_of_another_document(documents, room, seed):
    """A token's id says its document and its place there."""
    lengths = [sum(sentences) for sentences in documents]
    stops = np.cumsum(lengths)
    ids = np.concatenate([1000 * number + np.arange(length) for number, length in enumerate(lengths)])
    edges = np.concatenate([[0], np.cumsum([size for sentences in documents for size in sentences])[:-1]])
    rows = Rows(Documents(ids, stops - lengths, stops, np.zeros(len(documents), np.uint64), edges), room)
    for row in range(len(rows)):
        a, b, label = next_pair(rows, row, np.random.default_rng((seed, row)))
        assert min(len(a), len(b)) >= 1 and len(a) + len(b) <= room
        for part in (a, b):
            assert (np.diff(part) == 1).all()  # a run of one document
        if label:
            assert b[0] // 1000 != a[0] // 1000 == rows.document[row]
        else:
            assert b[0] // 1000 == a[0] // 1000 == rows.document[row] and b[0] > a[-1]
        one, two, swapped = order_pair(rows, row, np.random.default_rng((seed, row)))
        assert (two[0] > one[-1]) != swapped
        assert one[0] // 1000 == two[0] // 1000 == rows.document[row]


def test_a_pair_that_does_not_follow_looks_like_one_that_does(rows):
    """Neither its length nor the length of B tells the label."""
    drawn = [next_pair(rows, row, np.random.default_rng((seed, row))) for seed in range(40) for row in range(len(rows))]
    for size in (lambda a, b: len(b), lambda a, b: len(a) + len(b)):
        one, zero = (np.array([size(a, b) for a, b, found in drawn if found == label]) for label in (1, 0))
        assert one.mean() == pytest.approx(zero.mean(), rel=0.04)


def test_two_segments_are_swapped_half_the_time(rows):
    labels = []
    for seed in range(40):
        for row in range(len(rows)):
            a, b, label = order_pair(rows, row, np.random.default_rng((seed, row)))
            labels.append(label)
            if rows.stop[row] - rows.start[row] <= 29:
                assert (joined(b, a) if label else joined(a, b)) == rows[row].tolist()
    assert abs(np.mean(labels) - 0.5) < 5 * 0.5 / len(labels) ** 0.5


def test_two_segments_become_one_row():
    class Words:
        cls_token_id, sep_token_id = 2, 3

    row = framed(np.array([11, 12], np.uint16), np.array([13], np.uint16), Words())
    assert {name: values.tolist() for name, values in row.items()} == {
        "input_ids": [2, 11, 12, 3, 13, 3], "token_type_ids": [0, 0, 0, 0, 1, 1]}


def test_an_example_of_each_pair_by_hand(wordpiece):
    """Two documents of two sentences; the generator's first number cuts, its second decides."""

    class Chance:
        def __init__(self, number):
            self.number = number

        def integers(self, high):
            return 0

        def random(self):
            return self.number

    ids = np.array([11, 12, 13, 14, 21, 22, 23])
    documents = Documents(ids, np.array([0, 4]), np.array([4, 7]), np.zeros(2, np.uint64), np.array([0, 2, 4, 5]))
    rows = Rows(documents, 8)
    objectives = {NextSentence(): ([13, 14], [22, 23]), SentenceOrder(): ([13, 14], None)}
    for objective, (follows, elsewhere) in objectives.items():
        row = objective.draw_pair(rows, 0, Chance(0.5), wordpiece)
        assert (row["input_ids"].tolist(), row["labels"].tolist()) == ([2, 11, 12, 3, *follows, 3], [0])
        row = objective.draw_pair(rows, 0, Chance(0.4), wordpiece)
        expected = [2, 11, 12, 3, *elsewhere, 3] if elsewhere else [2, 13, 14, 3, 11, 12, 3]
        assert (row["input_ids"].tolist(), row["labels"].tolist()) == (expected, [1])


@pytest.mark.parametrize("objective", [NextSentence(), SentenceOrder(), MaskedLMNextSentence()])
def test_padding_has_no_part_in_the_losses(objective, source, wordpiece):
    import transformers

    family = registry.find("backbones", "bert" if not isinstance(objective, SentenceOrder) else "albert")
    torch.manual_seed(0)
    name = "bert" if family.model_type == "bert" else "albert"
    auto = getattr(transformers, objective.head_for(family))
    model = auto.from_config(family.config("tiny", SMALL[name] | STILL[name], wordpiece)).eval()
    (pairs,) = objective.prepare([source], None, setup_for(wordpiece)).train
    drawn = [pairs.draw(row, np.random.default_rng(row)) for row in range(6)]
    batches = [objective.collate(rows, wordpiece) for rows in (drawn, *([row] for row in drawn))]
    assert [("attention_mask" in batch) for batch in batches] == [True] + [False] * 6
    with torch.no_grad():
        whole, *parts = (objective.loss(model, batch, family) for batch in batches)
    for head in objective.heads:
        assert whole[head].item() == pytest.approx(sum(part[head].item() for part in parts), rel=1e-5)
        counts = [int(objective.targets(batch)[head]) for batch in batches]
        assert counts[0] == sum(counts[1:])


def test_figures_are_counted_by_hand():
    """(predicted, true) labels, and (right, hidden) tokens."""
    pairs = [(1, 1), (1, 0), (0, 1), (0, 0), (0, 0)]
    assert NextSentence().metrics({"loss": 0.7}, pairs) == pytest.approx(
        {"loss": 0.7, "accuracy": 0.6, "f1": 0.5, "majority": 0.6})
    figures = MaskedLMNextSentence().metrics(
        {"loss": 3.0, "masked_lm": np.log(8), "next_sentence": 0.7},
        [*pairs[:2], ("hidden", (1, 4)), *pairs[2:], ("hidden", (2, 2))])
    assert figures == pytest.approx({
        "loss": 3.0, "masked_lm": np.log(8), "next_sentence": 0.7, "perplexity": 8, "masked_lm_accuracy": 0.5,
        "next_sentence_accuracy": 0.6, "next_sentence_f1": 0.5, "next_sentence_majority": 0.6})


def test_rows_are_framed_padded_and_paired_anew(source, wordpiece):
    for objective in (NextSentence(), SentenceOrder(), MaskedLMNextSentence()):
        (pairs,) = objective.prepare([source], None, setup_for(wordpiece)).train
        drawn = [pairs.draw(row, np.random.default_rng(row)) for row in range(8)]
        batch = objective.collate(drawn, wordpiece)
        assert batch["input_ids"].shape == batch["token_type_ids"].shape
        assert batch["input_ids"].shape[1] <= 32
        padding = batch["attention_mask"] == 0
        assert padding.any() and (batch["input_ids"][padding] == wordpiece.pad_token_id).all()
        first = drawn[0]
        ends = np.flatnonzero(first["input_ids"] == wordpiece.sep_token_id)
        assert first["token_type_ids"].tolist() == [0] * (ends[0] + 1) + [1] * (ends[1] - ends[0])
        assert any(pairs.draw(0, np.random.default_rng(seed))["input_ids"].tolist() != first["input_ids"].tolist()
                   for seed in range(8))
        if isinstance(objective, MaskedLMNextSentence):
            assert (batch["labels"][padding] == -100).all()
            special = torch.tensor([wordpiece.cls_token_id, wordpiece.sep_token_id])
            assert not torch.isin(batch["labels"], special).any()


def test_static_masks_repeat_pair_and_mask(source, wordpiece):
    (pairs,) = MaskedLMNextSentence(masking="static").prepare([source], None, setup_for(wordpiece)).train
    one, two = (pairs.draw(3, np.random.default_rng(seed)) for seed in (0, 1))
    assert one["input_ids"].tolist() == two["input_ids"].tolist()


@pytest.mark.parametrize("objective", ["masked_lm_next_sentence", "next_sentence"])
def test_the_loss_is_transformers_own(objective, source, wordpiece):
    import transformers

    family = registry.find("backbones", "bert")
    learning = registry.find("objectives", objective)()
    torch.manual_seed(0)
    auto = getattr(transformers, learning.head_for(family))
    model = auto.from_config(family.config("tiny", SMALL["bert"] | STILL["bert"], wordpiece)).eval()
    (pairs,) = learning.prepare([source], None, setup_for(wordpiece)).train
    batch = learning.collate([pairs.draw(row, np.random.default_rng(row)) for row in range(9)], wordpiece)
    counts, sums = learning.targets(batch), learning.loss(model, batch, family)
    ours = sum(sums[head] / counts[head] for head in learning.heads)
    assert ours.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    judged, said = learning.judge(model, batch, family)
    figures = learning.metrics({"loss": 1.0, "masked_lm": 1.0}, said)
    name = "accuracy" if objective == "next_sentence" else "next_sentence_accuracy"
    assert 0 <= figures[name] <= 1
    assert {head: judged[head].item() for head in judged} == {head: sums[head].item() for head in sums}


def test_a_single_document_has_no_elsewhere(tmp_path, wordpiece):
    path = tmp_path / "one.txt"
    path.write_text("the cat saw the moon .\na dog found a hat .\nthe teacher loved a red ball .\n" * 9)
    one = open_source(Source(str(path)), "file")
    with pytest.raises(DataError, match="need two documents"):
        NextSentence().prepare([one], None, setup_for(wordpiece))
    sets = SentenceOrder().prepare([one], 0.3, setup_for(wordpiece))
    assert len(sets.train[0]) and len(sets.validation[0])


def test_documents_of_one_sentence_are_cut_in_the_middle_or_left_out_and_counted(tmp_path, wordpiece):
    path = tmp_path / "short.txt"
    long, several = "the cat saw the long river and a dog found the moon\n", "a dog . the cat .\n"
    path.write_text("the cat saw\n" + long + several * 2)
    sets = NextSentence().prepare([open_source(Source(str(path)), "line")], None, setup_for(wordpiece))
    assert len(sets.train[0]) == 3
    assert any("1 document of one short sentence is left out" in note for note in sets.notes)
    assert any("1 of 4 documents have one sentence only, and are cut inside it" in note for note in sets.notes)


@pytest.mark.parametrize("objective", [NextSentence(), SentenceOrder(), MaskedLMNextSentence()])
@pytest.mark.parametrize("text", ["a dog saw the open door .\n" * 3, "a dog saw the open door .\n\n" * 3,
                                  "a dog saw the open door .\n" * 3 + "a dog . the cat .\n" * 2])
def test_where_most_documents_are_one_sentence_there_is_no_next_one(tmp_path, wordpiece, objective, text):
    path = tmp_path / "lines.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"3 of [35] documents have one sentence only.* blank lines between documents"):
        objective.prepare([open_source(Source(str(path)))], None, setup_for(wordpiece))
    whole = SentenceOrder().prepare([open_source(Source(str(path)), "file")], None, setup_for(wordpiece))
    assert len(whole.train[0])  # what the message says to do
