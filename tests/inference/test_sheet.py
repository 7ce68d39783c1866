"""What a comparison shows: a table, a page and a plot."""

import json

import pytest

from llmkit.inference.comparing.sheet import Sheet, figure, of_seeds, rank, spread
from llmkit.system.errors import PlaceError


def row(name, *values, failed=0, error="", seconds=1.0):
    return {"method": name, "runs": len(values), "failed": failed, "error": error, "seconds": seconds,
            **(spread(values) if values else {})}


def sheet(*rows, floors=None, metric="accuracy"):
    return Sheet("method", metric, rows, {"seconds": lambda row: f"{row['seconds']:.1f}"}, floors or {},
                 ("seconds", "seconds of training", "log"), "a comparison", of_seeds(metric, 2))


def test_a_spread_is_of_all_runs():
    assert spread([0.5, 0.25, 0.75]) == {"mean": 0.5, "lowest": 0.25, "highest": 0.75, "values": [0.5, 0.25, 0.75]}
    assert spread((2.0,)) == {"mean": 2.0, "lowest": 2.0, "highest": 2.0, "values": [2.0]}


def test_one_run_has_a_figure_and_several_have_a_spread():
    assert figure(row("lora", 0.81234)) == "0.8123"
    assert figure(row("lora", 0.8, 0.9)) == "0.8500 (0.8000 to 0.9000)"


@pytest.mark.parametrize(("metric", "better", "worse"), [
    ("accuracy", 0.9, 0.1), ("loss", 0.1, 0.9), ("perplexity", 3.0, 30.0), ("f1", 1.0, 0.0)])
def test_more_of_a_rank_is_better(metric, better, worse):
    assert rank(metric, better) > rank(metric, worse)


def test_the_table_has_a_row_each_and_floors_last():
    made = sheet(row("full", 0.8, 0.9, seconds=12.34), row("lora", 0.7, failed=1, error="no room"),
                 row("prefix", failed=2, error="out of numbers"), row("ia3"), floors={"the commonest label": 0.5})
    assert made.cells() == [
        ["method", "accuracy", "seconds"], ["full", "0.8500 (0.8000 to 0.9000)", "12.3"],
        ["lora", "0.7000, 1 failed", "1.0"], ["prefix", "failed: out of numbers", ""], ["ia3", "not yet", ""],
        ["floor: the commonest label", "0.5000", ""]]


def test_a_bar_in_a_name_is_no_column_of_the_page():
    lines = sheet(row("a|b", 0.5)).markdown().splitlines()
    assert lines == ["**a comparison**", "", "| method | accuracy | seconds |", "| --- | ---: | ---: |",
                     "| a\\|b | 0.5000 | 1.0 |", "",
                     "accuracy on the validation rows, mean (lowest to highest) of 2 seeds."]


def test_what_figures_are_of_is_said():
    assert of_seeds("loss", 1) == "loss on the validation rows, mean of 1 seed."
    assert of_seeds("loss", 3) == "loss on the validation rows, mean (lowest to highest) of 3 seeds."


@pytest.mark.parametrize("rows", [
    [row("full", 0.8, 0.9), row("lora", 0.5)], [row("a name that is longer than the plot has room for", 0.5)],
    [row(f"m{i}", i / 20, seconds=1 + i) for i in range(12)]], ids=["two", "long", "many"])
def test_four_files_are_left(tmp_path, rows):
    sheet(*rows, floors={"chance": 0.3, "zero": 0.0}).write(tmp_path / "out", "compare", {"rows": "übrig"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "compare.json", "compare.md", "compare.png", "compare.svg"]
    assert json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8")) == {"rows": "übrig"}
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_where_nothing_ran_there_is_no_plot(tmp_path):
    sheet(row("full", failed=1, error="x"), row("lora")).write(tmp_path, "compare", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.json", "compare.md"]


def test_a_place_that_cant_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlaceError, match="file"):
        sheet(row("full", 0.5)).write(tmp_path / "file", "compare", {})


@pytest.mark.parametrize("name", ["compare.json", "compare.md", "compare.png", "compare.svg"])
def test_a_file_of_somebody_elses_is_not_written_over(name, tmp_path):
    Sheet.check(tmp_path, "compare")
    Sheet.check(tmp_path / "none", "compare")
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(PlaceError, match=rf"{name} is there, and no comparison of llmkit wrote that; choose another"):
        Sheet.check(tmp_path, "compare")
    Sheet.check(tmp_path, "prompts")


def test_a_comparison_that_is_made_again_takes_the_place_of_the_last(tmp_path):
    document = {"recipe": "r.yaml", "metric": "accuracy", "seeds": [1], "folder": str(tmp_path)}
    for value in (0.5, 0.75):
        Sheet.check(tmp_path, "compare")
        sheet(row("full", value)).write(tmp_path, "compare", document)
    assert json.loads((tmp_path / "compare.json").read_text()) == document
    assert "0.7500" in (tmp_path / "compare.md").read_text()
