"""The picture of a plan: what takes memory and time, beside what there is."""

import re

import pytest

from llmkit.cli import main
from llmkit.figures.planned import Planned, draw

PLAN = Planned("small: causal_lm with full", {"weights": 2e9, "gradients": 2e9, "optimizer": 4e9}, 10e9,
               {"training": 3600.0, "evaluations": 90.0})


def test_it_is_told_in_words_too(tmp_path):
    assert PLAN.in_words() == ("small: causal_lm with full. Memory: weights 2 GB, gradients 2 GB, optimizer 4 GB, of "
                               "10 GB. Time: training 1:00:00, evaluations 01:30.")
    draw(PLAN, tmp_path / "plan.svg")
    picture = (tmp_path / "plan.svg").read_text()
    assert PLAN.in_words() in picture and "drawn by llmkit" in picture
    for label in ("weights (2 GB)", "optimizer (4 GB)", "10 GB: all there is", "training (1:00:00)", "minutes"):
        assert re.search(re.escape(label), picture), label


@pytest.mark.parametrize(("words", "said"), [
    (["-o", "plan.txt"], "--output plan.txt: its name must end with .png or .svg"),
    (["-o", "plan.png", "--on", "8xH100"], "--output plan.png: draws what is measured here")])
def test_where_it_cant_go_is_said_before_anything_is_measured(words, said, capsys):
    assert main(["plan", "bert_mlm", *words]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
