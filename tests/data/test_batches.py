"""Which rows a step sees is a function of its position, however the work is divided."""

import json
import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from conftest import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit import recipe
from llmkit.data.batches import EVALUATION, Drawn, Micro, Order, in_order, load, positions, stack
from llmkit.objectives.base import join
from llmkit.training.fit import fit

calm = settings(deadline=None, max_examples=50)  # a busy machine is no defect


class Dice:
    """Rows that are only chance."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def draw(self, row, rng):
        return {"input_ids": np.array([row, *rng.integers(0, 1000, 3)]), "documents": np.zeros(4, np.int64)}


def taken(order, count, start=0):
    return [order.at(position) for position in range(start, start + count)]


# ---- order ------------------------------------------------------------------------------------------------------


def test_each_row_is_seen_once_a_pass():
    order = Order([7], None, seed=3)
    assert sorted(taken(order, 7)) == [(0, row) for row in range(7)]
    assert sorted(taken(order, 7, start=7)) == [(1, row) for row in range(7)]


def test_each_pass_is_in_another_order_and_each_seed_too():
    order = Order([50], None, seed=3)
    first, second = ([row for _, row in taken(order, 50, start)] for start in (0, 50))
    assert first != second
    assert first != list(range(50))
    assert first != [row for _, row in taken(Order([50], None, seed=4), 50)]
    assert first == [row for _, row in taken(Order([50], None, seed=3), 50)]


def test_sources_are_mixed_and_numbered_through():
    order = Order([30, 20], None, seed=0)
    epoch = taken(order, 50)
    assert sorted(epoch) == [(0, row) for row in range(50)]
    assert any(row >= 30 for _, row in epoch[:10])
    assert any(row < 30 for _, row in epoch[-10:])


def test_weights_are_shares_of_an_epoch():
    order = Order([100, 100, 10], [1.0, 2.0, 4.0], seed=0)
    assert order.shares == [30, 60, 120]
    assert order.epoch_rows == 210
    for epoch in range(3):
        source = Counter(np.searchsorted([100, 200], row, side="right") for _, row in taken(order, 210, 210 * epoch))
        assert source == {0: 30, 1: 60, 2: 120}


@calm
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.data(), st.integers(0, 2**63 - 1))
def test_no_row_of_a_weighted_source_is_forgotten(sizes, data, seed):
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    order = Order(sizes, weights, seed)
    epochs = max(2 * -(-size // share) for size, share in zip(sizes, order.shares, strict=True))
    seen = taken(order, epochs * order.epoch_rows)
    assert len(set(seen)) == len(seen)  # no row twice in one pass
    counts = Counter(row for _, row in seen)
    first = 0
    for size in sizes:
        times = [counts[row] for row in range(first, first + size)]
        assert min(times) >= 1
        assert max(times) - min(times) <= 1  # all equally often
        first += size


def test_a_position_is_the_same_whatever_was_asked_before():
    def fresh():
        return Order([13, 5], [2.0, 1.0], seed=9)

    order = fresh()
    for position in (400, 3, 77, 12, 3, 0, 1000):
        assert order.at(position) == fresh().at(position)


def test_a_source_that_kept_no_row_takes_no_part():
    assert sorted(taken(Order([0, 4], None, seed=0), 4)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    weighted = Order([0, 4, 4], [5.0, 1.0, 1.0], seed=0)
    assert weighted.shares == [0, 4, 4]
    assert sorted(taken(weighted, 8)) == [(0, row) for row in range(8)]


# ---- micro-batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [(8, 1), (4, 1), (2, 1), (1, 1), (4, 2), (2, 2), (1, 2), (2, 4), (1, 8)])
def test_a_step_has_the_same_rows_however_it_is_split(split):
    micro, processes = split
    order = Order([19], None, seed=1)
    rounds = 8 // (micro * processes)
    shares = [list(islice(Micro(order, 8, micro, rank, processes, step=2), 3 * rounds)) for rank in range(processes)]
    for step in range(3):
        parts = [part for share in shares for part in share[step * rounds : (step + 1) * rounds]]
        assert all(len(part) == micro for part in parts)
        assert sorted(key for part in parts for key in part) == sorted(taken(order, 8, 8 * (2 + step)))


def test_going_on_at_a_step_is_the_same_as_coming_there():
    order = Order([10], None, seed=1)
    whole = list(islice(Micro(order, 6, 3, 0, 1, step=0), 12))
    assert list(islice(Micro(order, 6, 3, 0, 1, step=4), 4)) == whole[8:]


def test_an_evaluation_sees_every_row_once():
    assert in_order(5, 2, 0, 1) == [[(EVALUATION, 0), (EVALUATION, 1)], [(EVALUATION, 2), (EVALUATION, 3)],
                                    [(EVALUATION, 4)]]
    for processes in (1, 2, 3, 5):
        keys = [key for rank in range(processes) for batch in in_order(17, 3, rank, processes) for key in batch]
        assert sorted(keys) == [(EVALUATION, row) for row in range(17)]


def test_an_evaluation_takes_as_many_rows_as_have_so_many_positions() -> None:
    def rows(lengths: list[int], size: int, tokens: int) -> list[list[int]]:
        return [[row for _, row in batch] for batch in in_order(len(lengths), size, 0, 1, lengths, tokens)]

    assert rows([1, 8, 2, 4, 2, 4, 1, 2], 1, 8) == [[1], [3, 5], [2, 4, 7, 0], [6]]  # the longest first
    assert rows([2, 2, 2, 2], 3, 2) == [[0, 1, 2], [3]]  # no fewer than a batch has otherwise
    assert [len(batch) for batch in rows([1] * 20, 1, 1_000)] == [8, 8, 4]  # and 8 times as many at most


# ---- chance -----------------------------------------------------------------------------------------------------


def test_the_same_key_draws_the_same_and_another_pass_another():
    drawn = Drawn([Dice(4), Dice(3)], seed=5)
    first = drawn[0, 2]["input_ids"].tolist()
    assert drawn[0, 5]["input_ids"][0] == 1  # the second source's second row
    assert drawn[0, 2]["input_ids"].tolist() == first
    assert drawn[1, 2]["input_ids"].tolist() != first
    assert Drawn([Dice(4), Dice(3)], seed=6)[0, 2]["input_ids"].tolist() != first
    assert len(drawn) == 7


def test_sources_without_rows_do_not_shift_the_others():
    drawn = Drawn([Dice(0), Dice(2), Dice(0), Dice(1)], seed=0)
    assert [int(drawn[0, row]["input_ids"][0]) for row in range(3)] == [0, 1, 0]


def test_loading_leaves_torchs_chance_alone_and_workers_change_nothing():
    import torch

    keys = [[(0, 0), (0, 3)], [(1, 2)]]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    alone = list(load(Drawn([Dice(4)], 0), keys, lambda rows: stack(rows, {})))
    helped = list(load(Drawn([Dice(4)], 0), keys, lambda rows: stack(rows, {}), workers=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert [batch["input_ids"].tolist() for batch in alone] == [batch["input_ids"].tolist() for batch in helped]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_need_no_shared_memory(monkeypatch, workers):
    """As in a container whose /dev/shm is full: torch would wait for ever for what a worker couldn't share."""
    import torch

    def full(*args):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full, raising=False)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", full, raising=False)

    def collate(rows):
        return {**stack(rows, {}), "weight": torch.tensor([[0.5], [float(len(rows))]]), "kept": torch.tensor([True])}

    batches = list(load(Drawn([Dice(4)], 0), [[(0, 0), (0, 3)], [(1, 2)], [(1, 1), (2, 1)]], collate, workers=workers))
    assert [batch["input_ids"][:, 0].tolist() for batch in batches] == [[0, 3], [2], [1, 1]]
    assert [batch["weight"].tolist() for batch in batches] == [[[0.5], [2.0]], [[0.5], [1.0]], [[0.5], [2.0]]]
    assert {name: tensor.dtype for name, tensor in batches[0].items()} == {
        "input_ids": torch.int64, "weight": torch.float32, "kept": torch.bool}
    batches[0]["input_ids"] += 1  # they can be written to


# ---- batches ----------------------------------------------------------------------------------------------------


def row(ids, labels=None, documents=None, **more):
    made = {"input_ids": np.array(ids), "labels": np.array(labels if labels is not None else ids),
            "documents": np.array(documents if documents is not None else [0] * len(ids))}
    return made | {name: np.array(value) for name, value in more.items()}


PADDING = {"input_ids": 9, "decoder_input_ids": 9, "labels": -100, "documents": -1}


def test_rows_are_padded_on_the_right():
    batch = {name: tensor.tolist() for name, tensor in stack([row([1, 2, 3]), row([4])], PADDING).items()}
    assert batch == {"input_ids": [[1, 2, 3], [4, 9, 9]], "labels": [[1, 2, 3], [4, -100, -100]],
                     "attention_mask": [[1, 1, 1], [1, 0, 0]]}


def test_a_full_batch_has_no_mask():
    assert set(stack([row([1, 2]), row([3, 4])], PADDING)) == {"input_ids", "labels"}


def test_a_packed_batch_numbers_documents_and_needs_no_mask():
    batch = stack([row([1, 2, 3], documents=[0, 1, 1]), row([4])], PADDING)
    assert set(batch) == {"input_ids", "labels", "documents"}
    assert batch["documents"].tolist() == [[0, 1, 1], [0, -1, -1]]


def test_decoder_padding_sees_the_last_document():
    rows = [row([1, 2], [5, 6, 7], [0, 1], decoder_input_ids=[9, 5, 9], decoder_documents=[0, 0, 1]),
            row([3], [8], decoder_input_ids=[9], decoder_documents=[0])]
    batch = stack(rows, PADDING)
    assert batch["decoder_documents"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch["decoder_input_ids"].tolist() == [[9, 5, 9], [9, 9, 9]]
    assert positions(batch) == 3 + 4


def test_decoder_documents_go_where_nothing_is_packed():
    rows = [row([1], [5, 6], decoder_input_ids=[9, 5], decoder_documents=[0, 0])] * 2
    assert set(stack(rows, PADDING)) == {"input_ids", "labels", "decoder_input_ids"}


def test_positions_leave_padding_out():
    assert positions(stack([row([1, 2, 3]), row([4])], PADDING)) == 4
    assert positions(stack([row([1, 2]), row([3, 4])], PADDING)) == 4
    assert positions(stack([row([1, 2, 3], documents=[0, 1, 1]), row([4])], PADDING)) == 4


def test_segments_are_joined_and_numbered():
    one = {"input_ids": np.array([1, 2]), "labels": np.array([5]), "decoder_input_ids": np.array([0])}
    two = {"input_ids": np.array([3]), "labels": np.array([6, 7]), "decoder_input_ids": np.array([0, 6])}
    assert {name: part.tolist() for name, part in join([one, two]).items()} == {
        "input_ids": [1, 2, 3], "labels": [5, 6, 7], "decoder_input_ids": [0, 0, 6],
        "documents": [0, 0, 1], "decoder_documents": [0, 1, 1]}


def test_rows_of_one_length_go_together_and_a_step_keeps_its_rows() -> None:
    order, lengths = Order([16], None, seed=0), [5, 1, 9, 3] * 4
    plain = list(islice(Micro(order, 8, 4, 0, 1, step=0), 4))
    sorted_ = list(islice(Micro(order, 8, 4, 0, 1, 0, lengths), 4))
    for step in (0, 2):
        rows = [key for micro in sorted_[step : step + 2] for key in micro]
        assert sorted(rows) == sorted(key for micro in plain[step : step + 2] for key in micro)
        assert [lengths[row] for _, row in rows] == sorted((lengths[row] for _, row in rows), reverse=True)
    shared = [list(islice(Micro(order, 8, 2, rank, 2, 0, lengths), 2)) for rank in (0, 1)]
    assert [shared[0][0], shared[1][0], shared[0][1], shared[1][1]] == [
        sorted_[0][:2], sorted_[0][2:], sorted_[1][:2], sorted_[1][2:]]


def test_a_run_says_how_long_it_waited_for_data(text, tmp_path, monkeypatch):
    drawn = Drawn.__getitem__
    monkeypatch.setattr(Drawn, "__getitem__", lambda self, key: (time.sleep(0.02), drawn(self, key))[1])
    slow = fit(recipe.load(tiny("bert", text, tmp_path / "slow", max_steps=3)))
    monkeypatch.undo()
    plain = fit(recipe.load(tiny("bert", text, tmp_path / "plain", max_steps=3)))
    metrics = (tmp_path / "slow" / "metrics.jsonl").read_text()
    shares = [json.loads(line)["data_wait"] for line in metrics.splitlines()]
    assert all(0 < share < 1 for share in (*shares, slow["data_wait"], plain["data_wait"]))
    seconds = slow["data_wait"] * slow["tokens"] / slow["tokens_per_second"]
    assert seconds >= 3 * 0.02  # a row a step at least
    assert slow["data_wait"] > plain["data_wait"]
