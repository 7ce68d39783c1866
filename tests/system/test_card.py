"""The model card of a run, and times, as they are shown."""

from typing import Any

import pytest

from llmkit.system import report

SUMMARY: dict[str, Any] = {
    "adapter": False, "versions": {"llmkit": "0.1.0"}, "parameters": 1_234_567, "trainable_parameters": 1_000,
    "steps": 2_000, "tokens": 5_000_000, "status": "completed", "evaluation": None,
    "recipe": {"what": "Pretrained", "kind": "objective", "learning": "masked_lm", "backbone": "bert-tiny",
               "tuning": "full", "data": ["corpora/*.txt"]}}


def test_a_card_without_an_evaluation_has_no_table():
    assert report.facts(SUMMARY) == [
        "Pretrained with llmkit 0.1.0: backbone `bert-tiny`, objective `masked_lm`, tuning `full`.", "",
        "- parameters: 1,234,567, of which 1,000 were trained",
        "- steps: 2,000; tokens: 5,000,000; status: completed", "- data: `corpora/*.txt`", ""]


def test_a_card_of_many_sources_names_the_first_and_counts_the_rest():
    names = [f"{i}.txt" for i in range(10_000)]
    line = report.facts({**SUMMARY, "recipe": {**SUMMARY["recipe"], "data": names}})[4]
    assert line == "- data: " + ", ".join(f"`{i}.txt`" for i in range(20)) + ", and 9,980 more"


def test_figures_stand_beside_those_of_before_and_the_floors():
    summary = {**SUMMARY, "evaluation": {"loss": 0.5, "accuracy": 0.75}, "evaluation_before": {"loss": 0.69314718},
               "floors": {"most frequent label": {"accuracy": 0.5}}}
    assert report.facts(summary)[-4:] == [
        "|---|---|---|---|", "| loss | 0.6931 | 0.5000 |  |", "| accuracy |  | 0.7500 | 0.5000 |", ""]
    assert report.facts(summary)[-5] == "| metric | before | after | floor: most frequent label |"


@pytest.mark.parametrize(("adapter", "library"), [(True, "peft"), (False, "transformers")])
def test_a_card_says_which_library_opens_it_and_how_it_was_made(adapter, library):
    lines = report.card({**SUMMARY, "adapter": adapter}, "mini", "name: mini\nseed: 42\n").splitlines()
    assert lines[:6] == ["---", f"library_name: {library}", "tags: [llmkit]", "---", "# mini", ""]
    assert lines[-4:] == ["```yaml", "name: mini", "seed: 42", "```"]


@pytest.mark.parametrize(("said", "shown"), [
    ("train: /home/me/data/corpus.txt", "train: …/corpus.txt"), ("train: ~/data/a b.txt", "train: …/a b.txt"),
    ("train: data/corpus.txt", "train: data/corpus.txt"), ("hub: https://host.org/a/b", "hub: https://host.org/a/b"),
    ("train: ./data/corpus.txt", "train: ./data/corpus.txt"), ("a: C:/Users/me/x.txt", "a: …/x.txt"),
    ("a: ['/srv/one.txt', '/srv/two.txt']", "a: ['…/one.txt', '…/two.txt']")])
def test_a_card_is_without_the_folders_of_this_machine(said, shown):
    assert f"\n{shown}\n" in report.card(SUMMARY, "mini", said)


@pytest.mark.parametrize(("seconds", "shown"), [
    (0, "00:00"), (59.9, "00:59"), (61, "01:01"), (3_599, "59:59"), (3_600, "1:00:00"), (90_061, "25:01:01"),
    (-5, "00:00")])
def test_seconds_are_shown_as_a_clock_has_them(seconds, shown):
    assert report.clock(seconds) == shown


def test_a_table_keeps_its_brackets(capsys):
    report.table([["mode", "accuracy"], ["[bold]x[/bold]", "0.5"]])
    report.figures([("[a]", "1", "of two"), ("", "", "")])
    said = capsys.readouterr().out
    assert "[bold]x[/bold]" in said
    assert "[a]" in said


def test_where_nobody_watches_a_line_comes_now_and_then(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(report.log, "info", lambda text, *words: lines.append(text % words))
    with report.progress(False) as silent:
        now[0] += 60
        silent.update(0.5, 1, {"loss": 2.0}, 30)
    monkeypatch.setattr(report.sys.stderr, "isatty", lambda: False, raising=False)
    with report.progress(True, "row") as spoken:
        for step in range(1, 4):
            now[0] += 6
            spoken.update(step / 4, step, {"loss": 1234.5678, "speed": 0.00123}, 65)
    assert lines == ["row 2 (50 %)  loss 1,235  speed 0.00123  01:05 left"]
