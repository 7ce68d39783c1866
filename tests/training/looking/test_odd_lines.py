"""Lines of a run's files that no run writes: each is named by file and line, once, and the rest is told."""

import json
import re
import shutil
from pathlib import Path

import pytest

from llmkit.cli import main
from llmkit.serving.board import reading
from llmkit.serving.board.shelf import Shelf
from llmkit.system.language import is_prose
from llmkit.training.looking.oddities import MOST, read_line, read_lines, sound

METRICS = """{"event": "train", "step": 1, "loss": 3.0}
{"event": "train", "step": 2, "loss": Infinity}
{"event": "train", "step":
[1, 2]
{"event": "train", "loss": 2.5}
{"event": "spike", "step": 4, "loss": "high", "deviations": 9.0}
{"event": "evaluate", "step": 5, "loss": 2.0, "accuracy": NaN}
{"event": "train", "step": 6, "loss": 1.5}
{"event": "train", "st"""
TOLD = ["metrics.jsonl:2: loss is not finite: inf", "metrics.jsonl:3: is no JSON, and is passed over",
        "metrics.jsonl:4: is no object but [1, 2], and is passed over",
        "metrics.jsonl:5: has no `step` that is a number, and is passed over",
        "metrics.jsonl:6: loss is no number: 'high'", "metrics.jsonl: 1 more of its lines are odd"]
SUMMARY = {"status": "completed", "steps": "many", "evaluation": {"loss": 2.0, "accuracy": "high"}, "resumed": [3],
           "floors": {"majority class": {"loss": 3.0}, "odd": 4}, "wall_seconds": 61.0, "device": ["cpu"]}
OF_SUMMARY = ["summary.json:3: steps is no number: 'many'; it isn't shown",
              "summary.json:18: device is no text: ['cpu']; it isn't shown",
              "summary.json:4: evaluation.accuracy is no number: 'high'; it isn't shown",
              "summary.json:11: floors.odd has no numbers: 4; it isn't shown",
              "summary.json:8: resumed is no list of steps: [3]; it isn't shown"]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A run whose files somebody, or a disk, wrote into."""
    folder = tmp_path / "runs" / "odd"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(json.dumps({
        "name": "odd", "backbone": {"family": "gpt2", "size": "tiny"}, "data": {"train": "a.txt"},
        "tokenizer": {"train": {"vocab_size": 300}}, "objective": {"name": "causal_lm"},
        "training": {"max_steps": 10}}))
    (folder / "metrics.jsonl").write_text(METRICS)
    (folder / "summary.json").write_text(json.dumps(SUMMARY, indent=1))
    (folder / "samples.jsonl").write_text('{"event": "samples", "step": 0, "rows": [{"text": "first"}]}\n{]\n'
                                          '{"event": "answers", "step": 5, "rows": "x", "by_label": 3}\n'
                                          '{"event": "samples", "step": 5, "rows": [{"text": "last"}]}\n')
    return folder


def test_each_odd_line_is_named_and_the_rest_is_read(odd: Path) -> None:
    events, said = read_lines(odd / "metrics.jsonl")
    assert said == TOLD and MOST == 5
    assert [event["step"] for event in events] == [1, 2, 4, 5, 6]
    assert events[3] == {"event": "evaluate", "step": 5, "loss": 2.0, "accuracy": None}
    assert read_lines(odd / "none") == ([], [])


@pytest.mark.parametrize("line", ['{"event": "train", "step": 1, "loss": 1' + "0" * 400 + "}", "[" * 100_000, "\x00"])
def test_a_line_may_be_anything(line: str) -> None:
    assert read_line(line)[1]


def test_fields_of_a_summary_are_named_with_their_lines(odd: Path) -> None:
    whole, said = sound(SUMMARY, odd / "summary.json")
    assert said == OF_SUMMARY
    assert whole == {"status": "completed", "evaluation": {"loss": 2.0}, "floors": {"majority class": {"loss": 3.0}},
                     "wall_seconds": 61.0}


def test_of_a_long_file_the_last_lines_have_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"event": "train", "step": i, "loss": 1.0}) + "\n" for i in range(1, 100))
                    + "odd\n")
    monkeypatch.setattr(reading, "TAIL", 200)
    events, said = reading.last(path)
    assert said == ["metrics.jsonl:100: is no JSON, and is passed over"]
    assert events[-1]["step"] == 99 and len(events) < 10


def test_the_board_the_report_and_the_table_name_them_once_and_go_on(
    odd: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    shelf = Shelf(odd.parent)
    (row,) = shelf.listing()["runs"]
    told, page = shelf.told("odd", "en"), shelf.report("odd")
    samples = "samples.jsonl:2: is no JSON, and is passed over"
    assert row["notes"] == [*OF_SUMMARY, *TOLD]
    assert told["notes"] == [*OF_SUMMARY, *TOLD, samples]
    assert [one["rows"] for one in told["samples"]] == [[["first"]], [["last"]]]
    assert told["figures"] == [{"name": "loss", "before": None, "after": 2.0, "floors": [3.0]}]
    assert [one["loss"] for one in told["happened"] if one["what"] == "spike"] == [None]
    for name in ("metrics.jsonl:3", "summary.json:8", "samples.jsonl:2"):
        assert page.count(f"{name}: ") == 1
    assert "first" in page and "last" in page
    assert "by_label: of another kind than llmkit writes, and not shown." in page
    assert main(["runs", "show", str(odd)]) == 0
    out, err = capsys.readouterr()
    assert "2.0000" in out and err.count("metrics.jsonl:3: is no JSON") == 1 and "samples.jsonl:2" in err
    assert main(["report", str(odd), "-o", str(odd.parent / "page.html")]) == 0


def test_a_report_in_chinese_has_no_english_sentence(
    odd: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    (odd / "summary.json").write_text(json.dumps({
        **SUMMARY, "resumed": [{"step": 3, "at": "2026-11-30"}], "steps": 5, "evaluation": {"loss": 3.5},
        "floors": {"majority class": {"loss": 3.0}}, "why": "the recipe's length is reached", "device": "cpu",
        "weights": "last", "one_answer": "all 9 answers are the same: 好", "evaluation_before": {"loss": 4.0}}))
    (odd / "bad_rows.txt").write_text("a.csv:3: 没有标签\n")
    second = tmp_path / "runs" / "second"
    shutil.copytree(odd, second)
    for runs in ([odd], [odd, second]):
        page = tmp_path / "page.html"
        assert main(["report", *map(str, runs), "-o", str(page)]) == 0
        html = page.read_text()
        seen = re.sub(r"<style>.*?</style>|<desc>.*?</desc>|<[^>]*>", "\n", html, flags=re.DOTALL)
        english = [line for line in map(str.strip, seen.split("\n")) if is_prose(line)]
        assert english == []
        assert '<html lang="zh-Hans">' in html and "基线（floor）: 多数类: 训练集中最常见的标签" in html
        assert "loss 3.5000 高于基线（floor）3.0000（多数类: 训练集中最常见的标签）" in html
