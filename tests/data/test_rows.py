"""Every token finds its row: in blocks, in documents packed together, and in documents alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data.rows import Blocks, Layout, Segments, Wrapped, arrange, pack
from llmkit.data.tokens import Documents

calm = settings(deadline=None, max_examples=50)  # a busy machine is no defect
BEGIN, END = 90, 91
CAUSAL = Layout(length=5, room=4, before=(BEGIN,), after=(END,), overlap=1, shortest=2, positions=lambda n: n - 1)
PLAIN = Layout(length=4, room=4)
MASKED = Layout(length=4, room=6, positions=lambda n: n + 2)  # between [CLS] and [SEP]


def documents(*texts):
    """Documents of the given ids, with other tokens between them that belong to none."""
    ids, starts, stops = [], [], []
    for text in texts:
        ids.append(7777)
        starts.append(len(ids))
        ids += text
        stops.append(len(ids))
    return Documents(np.array(ids, np.uint16), np.array(starts, np.int64), np.array(stops, np.int64),
                     np.arange(len(texts), dtype=np.uint64))


def read(rows):
    return [[segment.tolist() for segment in rows[i]] for i in range(len(rows))]


def causal(length):
    return Layout(length=length + 1, room=length, before=(BEGIN,), after=(END,), overlap=1, shortest=2,
                  positions=lambda n: n - 1)


# ---- documents between their tokens -----------------------------------------------------------------------------


def test_a_document_stands_between_its_begin_and_end():
    wrapped = Wrapped(documents([1, 2, 3], [], [4]), CAUSAL)
    assert wrapped.lengths.tolist() == [5, 2, 3]
    assert wrapped.stream(0, 10).tolist() == [90, 1, 2, 3, 91, 90, 91, 90, 4, 91]
    assert wrapped.part(0, 0, 5).tolist() == [90, 1, 2, 3, 91]
    assert wrapped.part(0, 1, 4).tolist() == [1, 2, 3]
    assert wrapped.part(1, 1, 2).tolist() == [91]


@calm
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6), st.integers(0, 2), st.integers(0, 2),
       st.data())
def test_a_stretch_of_the_stream_is_that_of_the_whole(texts, before, after, data):
    layout = Layout(length=4, room=4, before=(50, 51)[:before], after=(60, 61)[:after])
    whole = [token for text in texts for token in (*layout.before, *text, *layout.after)]
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    if start < stop:
        assert Wrapped(documents(*texts), layout).stream(start, stop).tolist() == whole[start:stop]


# ---- blocks -----------------------------------------------------------------------------------------------------


def test_blocks_cut_one_stream_and_the_last_is_shorter():
    assert read(Blocks(documents([1, 2, 3], [4, 5], [6, 7, 8, 9, 10]), PLAIN)) == [
        [[1, 2, 3, 4]], [[5, 6, 7, 8]], [[9, 10]]]


def test_the_last_token_of_a_causal_block_is_the_first_of_the_next():
    assert read(Blocks(documents([1, 2, 3], [4, 5]), CAUSAL)) == [[[90, 1, 2, 3, 91]], [[91, 90, 4, 5, 91]]]


def test_a_block_shorter_than_the_shortest_is_left_out():
    layout = Layout(length=4, room=4, shortest=2)
    assert read(Blocks(documents([1, 2, 3, 4, 5]), layout)) == [[[1, 2, 3, 4]]]
    assert read(Blocks(documents([1, 2, 3, 4, 5, 6]), layout)) == [[[1, 2, 3, 4]], [[5, 6]]]


# ---- segments ---------------------------------------------------------------------------------------------------


def test_a_long_document_makes_several_segments_and_a_row_has_one():
    assert read(Segments(documents([1, 2, 3, 4, 5, 6], [7]), CAUSAL, packed=False)) == [
        [[90, 1, 2, 3, 4]], [[4, 5, 6, 91]], [[90, 7, 91]]]


def test_packed_rows_hold_several_whole_segments():
    assert read(Segments(documents([1, 2], [3, 4], [5], [6]), MASKED, packed=True)) == [
        [[1, 2]], [[3, 4]], [[5], [6]]]
    assert read(Segments(documents([1, 2], [3], [4, 5], [6]), Layout(4, 4), packed=True)) == [
        [[1, 2], [4, 5]], [[3], [6]]]


def test_segments_too_short_to_learn_from_are_left_out():
    layout = Layout(length=3, room=3, shortest=2)
    assert read(Segments(documents([1], [2, 3], [], [4, 5, 6, 7]), layout, packed=False)) == [[[2, 3]], [[4, 5, 6]]]


def test_empty_documents_are_no_segments_but_causal_learns_that_they_end():
    assert len(Segments(documents([], []), PLAIN, packed=True)) == 0
    assert read(Segments(documents([], []), CAUSAL, packed=True)) == [[[90, 91], [90, 91]]]
    assert len(Blocks(documents([], []), PLAIN)) == 0


@pytest.mark.parametrize("packing", ["blocks", "documents", "none"])
def test_no_documents_are_no_rows(packing):
    for layout in (PLAIN, CAUSAL, MASKED):
        assert len(arrange(documents(), layout, packing)) == 0


def test_how_full_the_rows_are_is_known():
    assert Segments(documents([1, 2, 3], [4]), PLAIN, packed=True).filled == 1.0
    assert Segments(documents([1, 2, 3], [4]), PLAIN, packed=False).filled == 0.5


# ---- what must hold for any text --------------------------------------------------------------------------------

lengths = st.lists(st.integers(0, 23), min_size=1, max_size=12)


@calm
@given(lengths, st.integers(2, 9), st.sampled_from(["blocks", "documents", "none"]))
def test_every_token_is_a_target_once_in_causal_rows(sizes, length, packing):
    tokens = iter(range(100, 1000))
    texts = [[next(tokens) for _ in range(size)] for size in sizes]
    rows = read(arrange(documents(*texts), causal(length), packing))
    targets = sorted(token for row in rows for segment in row for token in segment[1:] if token >= 100)
    assert targets == [token for text in texts for token in text]
    ends = [token for row in rows for segment in row for token in segment[1:] if token == END]
    assert len(ends) == len(texts)
    for row in rows:
        assert 1 <= sum(len(segment) - 1 for segment in row) <= length


@calm
@given(lengths, st.integers(2, 9), st.sampled_from(["documents", "none"]))
def test_a_causal_target_is_predicted_from_the_token_before_it(sizes, length, packing):
    tokens = iter(range(100, 1000))
    texts = [[next(tokens) for _ in range(size)] for size in sizes]
    follows = {(a, b) for text in texts for a, b in zip([BEGIN, *text], [*text, END], strict=True)}
    for row in read(arrange(documents(*texts), causal(length), packing)):
        for segment in row:
            assert set(pairwise(segment)) <= follows


@calm
@given(lengths, st.integers(1, 9), st.sampled_from(["blocks", "documents", "none"]))
def test_every_token_is_in_one_row_where_nothing_overlaps(sizes, length, packing):
    tokens = iter(range(100, 1000))
    texts = [[next(tokens) for _ in range(size)] for size in sizes]
    layout = Layout(length=length, room=length + 2, positions=lambda n: n + 2)
    rows = read(arrange(documents(*texts), layout, packing))
    assert sorted(token for row in rows for segment in row for token in segment) == list(range(100, 100 + sum(sizes)))
    assert all(1 <= len(segment) <= length for row in rows for segment in row)


@calm
@given(st.lists(st.integers(1, 30), max_size=60))
def test_no_row_is_overfull_and_every_segment_has_one(sizes):
    rows = pack(np.array(sizes, np.int64), 30)
    loads = np.bincount(rows, weights=sizes) if sizes else np.zeros(0)
    assert len(rows) == len(sizes)
    assert (loads <= 30).all()
    assert (loads > 0).all()  # numbered without a gap
    assert (loads[:-1] + loads[1:] > 30).all()  # two neighbours never fit into one: first fit


def one_by_one(sizes, room):
    """Best fit decreasing as it is told: each segment, the longest first, into the fullest row that has room for it."""
    rows, free = np.zeros(len(sizes), np.int64), []
    touched = []  # of equally full rows, the one that was filled last
    for i in np.argsort(-sizes, kind="stable"):
        fit = min((row for row in range(len(free)) if free[row] >= sizes[i]),
                  key=lambda row: (free[row], -touched.index(row)), default=None)
        if fit is None:
            fit = len(free)
            free.append(room)
        else:
            touched.remove(fit)
        touched.append(fit)
        rows[i], free[fit] = fit, free[fit] - sizes[i]
    return rows


@calm
@given(st.integers(1, 40).flatmap(lambda room: st.tuples(st.just(room), st.lists(st.integers(1, room), max_size=60))))
def test_segments_of_one_size_at_once_go_where_they_would_go_one_by_one(asked):
    room, sizes = asked[0], np.array(asked[1], np.int64)
    assert pack(sizes, room).tolist() == one_by_one(sizes, room).tolist()


def test_random_lengths_fill_nine_tenths():
    rng = np.random.default_rng(0)
    for sizes in (rng.integers(1, 129, 3000), np.minimum(128, 1 + rng.geometric(1 / 40, 3000)),
                  np.clip(rng.lognormal(4, 1, 3000).astype(np.int64), 1, 128)):
        rows = pack(sizes, 128)
        assert sizes.sum() / (128 * (rows.max() + 1)) >= 0.9


def test_packing_is_the_same_every_time_and_quick():
    sizes = np.random.default_rng(1).integers(1, 513, 20_000)
    assert pack(sizes, 512).tolist() == pack(sizes, 512).tolist()
