"""Lines of a run's metrics: all at first, thinned where they are many, and then only what is new."""

import json
import time

import pytest

from llmkit.serving.board import reading
from llmkit.serving.board.pace import pace
from llmkit.serving.board.reading import means, plain, read, spaced


def put(path, *events, mode="a"):
    with path.open(mode) as file:
        file.write("".join(json.dumps(event) + "\n" for event in events))


def train(step, **more):
    return {"event": "train", "step": step, "loss": float(step), **more}


def test_only_new_lines_are_told_the_second_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    put(path, train(1), {"event": "evaluate", "step": 1, "loss": 5.0})
    first = read(path)
    assert [event["event"] for event in first.events] == ["train", "evaluate"]
    assert (first.fresh, first.until) == (True, path.stat().st_size)
    put(path, train(2))
    then = read(path, first.until, first.file)
    assert then.events == [train(2)]
    assert (then.fresh, then.until) == (False, path.stat().st_size)
    assert read(path, then.until, then.file).events == []


def test_a_line_that_is_being_written_comes_once_it_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    put(path, train(1))
    with path.open("a") as file:
        file.write('{"event": "train", "st')
    first = read(path)
    assert first.events == [train(1)] and first.broken == 0
    with path.open("a") as file:
        file.write('ep": 2, "loss": 2.0}\n')
    assert read(path, first.until, first.file).events == [train(2)]


def test_a_file_that_is_written_anew_is_told_from_its_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    put(path, train(1), train(2), train(3))
    known = read(path)
    other = tmp_path / "other"
    put(other, train(1), train(2), train(3), train(4))
    other.replace(path)  # as a run that goes on from a checkpoint does
    found = read(path, known.until, known.file)
    assert found.fresh and [event["step"] for event in found.events] == [1, 2, 3, 4]
    put(path, train(1), mode="w")  # shorter than what was read
    assert read(path, found.until, found.file).fresh


def test_there_is_nothing_where_there_is_no_file(tmp_path):
    assert read(tmp_path / "none").events == [] and reading.last(tmp_path / "none") == ([], [])


@pytest.mark.parametrize("blocks", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_a_million_lines_are_thinned_to_some_hundred_within_seconds(tmp_path, blocks, monkeypatch):
    if blocks < 100:
        monkeypatch.setattr(reading, "PARSED", 5000)
    path = tmp_path / "metrics.jsonl"
    block = "".join(json.dumps(train(i, grad_norm=1.0, tokens_per_second=5.0)) + "\n" for i in range(1, 10_001))
    with path.open("w") as file:
        for _ in range(blocks):
            file.write(block)
        file.write(json.dumps({"event": "evaluate", "step": 10_000, "loss": 7.0}) + "\n")
    began = time.process_time()
    found = read(path)
    assert time.process_time() - began < 5
    trains = [event for event in found.events if event["event"] == "train"]
    assert len(trains) <= reading.MOST + 1
    assert found.until == path.stat().st_size and found.thinned == -(-10_000 * blocks // reading.MOST)
    assert sum(event["event"] == "evaluate" for event in found.events) == 1
    assert sum(event["loss"] for event in trains) / len(trains) == pytest.approx(5000.5, rel=0.02)
    assert reading.last(path)[0][-1]["event"] == "evaluate"


def test_figures_are_means_and_places_are_the_last(tmp_path):
    four = [train(i, tokens=10 * i) for i in (1, 2, 3, 4)]
    assert means(four, 2) == [{**train(2, tokens=20), "loss": 1.5}, {**train(4, tokens=40), "loss": 3.5}]
    assert means(four, 4) == four
    assert [event["step"] for event in spaced(four, 2)] == [2, 4]
    assert spaced([], 2) == []


def test_lines_that_cant_be_read_are_counted_and_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(json.dumps(train(1)).encode() + b'\n{"event": \n[1]\n{"event": "train"}\n\xff\xfe\n'
                     + b"x" * (reading.LONGEST + 5) + b"\n" + json.dumps(train(2)).encode() + b"\n")
    found = read(path)
    assert [event["step"] for event in found.events] == [1, 2]
    assert found.broken == 5


def test_what_is_no_finite_number_is_null():
    assert plain({"a": float("nan"), "b": [float("inf"), 1, True, None, "x"], 3: {"c": 2.5}}) == {
        "a": None, "b": [None, 1, True, None, "x"], "3": {"c": 2.5}}


@pytest.mark.parametrize(("training", "line", "found"), [
    ({"max_steps": 1000}, {"step": 300, "tokens": 30_000, "tokens_per_second": 100.0}, (0.3, 700.0)),
    ({"num_train_epochs": 4}, {"step": 9, "epoch": 1.0, "tokens": 50, "tokens_per_second": 1.0}, (0.25, 150.0)),
    ({"max_tokens": 100}, {"step": 1, "tokens": 50, "tokens_per_second": 5.0}, (0.5, 10.0)),
    ({"max_minutes": 1}, {"step": 1, "tokens": 450, "tokens_per_second": 10.0}, (0.75, 15.0)),
    ({"max_steps": 10}, {"step": 20, "tokens": 5, "tokens_per_second": 1.0}, (1.0, 0.0)),
    ({"max_steps": 10}, {"step": 5}, (0.5, None)), ({"max_steps": None}, {"step": 5}, (None, None)),
    ({"max_steps": "many"}, {"step": 5}, (None, None)), ({}, {}, (None, None))])
def test_how_far_a_run_is_follows_from_its_recipe_and_last_line(training, line, found):
    assert pace(training, line) == pytest.approx(found) if None not in found else pace(training, line) == found
