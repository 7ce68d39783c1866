"""A set of GLUE brings its validation split and its authors' metric, where the recipe says neither."""

from pathlib import Path
from typing import Any

import pytest

from llmkit import recipe
from llmkit.cli.train import tuned
from llmkit.data.known.sets import usual_split
from llmkit.planning import known_sets
from llmkit.planning.settle import settle
from llmkit.tasks.shared import named_metrics


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets  # type: ignore[import-untyped]

    folder = tmp_path_factory.mktemp("glue")
    rows = [{"sentence": f"the cat sat {number}", "label": number % 2} for number in range(6)]
    pairs = [{"premise": "the cat", "hypothesis": str(number), "label": number % 3} for number in range(6)]
    for name, some, held in (("cola", rows, ("validation",)), ("sst2", rows, ("validation",)),
                             ("mnli", pairs, ("validation_matched", "validation_mismatched"))):
        (folder / name).mkdir()
        for split in ("train", *held):
            datasets.Dataset.from_list(some).to_parquet(str(folder / name / f"{split}-00000-of-00001.parquet"))
    return folder


def settled(train: str, **sections: Any) -> recipe.Recipe:
    data = {"train": train, **sections.pop("data", {})}
    return settle(recipe.load({
        "name": "a", "backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 60}},
        "data": data, "task": "classification", **sections})).recipe


def test_cola_is_measured_on_its_split_by_matthews_correlation(glue: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "llmkit")
    made = settled(f"{glue}/cola")
    assert made.data.validation == [recipe.Source(f"{glue}/cola", split="validation")]
    assert made.training.metrics == ["matthews"]
    assert [record.getMessage() for record in caplog.records if "measure" in record.getMessage()] == [
        f"{glue}/cola: measured on its split validation",
        f"training.metrics: matthews, as the authors of {glue}/cola measure it"]
    assert settled(f"{glue}/sst2").training.metrics == []


def test_finetune_data_holds_nothing_out_of_a_set_with_a_split_of_its_own(glue: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    for data, held in ((f"{glue}/cola", None), (f"{glue}/mnli:train", None), ("hub:nyu-mll/glue:sst2", None),
                       ("hub:some/one", 0.1), (str(tmp_path), 0.1), (str(tmp_path / "rows.csv"), 0.1)):
        _, _, fields = tuned("classification", {}, None, None, None, data, None)
        assert fields["data.validation"] == held, data


def test_what_the_recipe_says_of_either_stays(glue: Path) -> None:
    made = settled(f"{glue}/cola", data={"validation": 0.5}, training={"metrics": ["f1_positive"]})
    assert (made.data.validation, made.training.metrics) == (0.5, ["f1_positive"])


def test_a_set_without_a_split_to_measure_on_is_learned_from_and_that_is_said(
    glue: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "llmkit")
    (glue / "sst2" / "validation-00000-of-00001.parquet").rename(glue / "sst2" / "kept.parquet")
    try:
        for label in (f"{glue}/sst2", f"{glue}/sst2:train"):
            assert settled(label).data.validation is None
    finally:
        (glue / "sst2" / "kept.parquet").rename(glue / "sst2" / "validation-00000-of-00001.parquet")
    assert f"{glue}/sst2: has no split validation to be measured on; data.validation may be a share" in caplog.text


@pytest.mark.parametrize(("label", "split"), [
    ("cola", "validation"), ("mnli", "validation_matched"), ("cola:train", None), ("mnli:validation_mismatched", None)])
def test_a_set_alone_is_measured_on_its_own_split(glue: Path, label: str, split: str | None) -> None:
    assert usual_split(f"{glue}/{label}") == split


@pytest.mark.parametrize(("label", "split"), [
    ("hub:nyu-mll/glue:sst2", "validation"), ("hub:nyu-mll/glue:sst2:train", None), ("hub:some/one", None),
    ("hub:some/one:two", None), ("rows.csv", None), ("builtin:python-docs", None), ("-", None)])
def test_the_usual_split_of_other_sources(label: str, split: str | None) -> None:
    assert usual_split(label) == split


def test_mnli_is_measured_on_matched_text_and_says_where_the_other_is(
    glue: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "llmkit")
    made = settled(f"{glue}/mnli:train")
    assert made.data.validation == [recipe.Source(f"{glue}/mnli", split="validation_matched")]
    assert f"`llmkit evaluate RUN --data {glue}/mnli:validation_mismatched`" in caplog.text


@pytest.mark.parametrize(("label", "name"), [
    ("hub:nyu-mll/glue:sst2", "hub:nyu-mll/glue:sst2"), ("hub:nyu-mll/glue:sst2:train", "hub:nyu-mll/glue:sst2"),
    ("no/such:train", "no/such:train"),
])
def test_a_name_without_its_split(label: str, name: str) -> None:
    assert known_sets.bare(label) == name


@pytest.mark.parametrize(("true", "predicted", "matthews", "f1"), [
    ([1, 1, 0, 0], [1, 1, 1, 0], 2 / 12**0.5, 0.8),  # tp 2, fp 1, tn 1: (2·1 - 1·0) / √(3·2·2·1)
    ([0, 1, 0, 1], [1, 0, 1, 0], -1.0, 0.0),
    ([1, 1, 1, 0], [1, 1, 1, 1], 0.0, 6 / 7),  # all said alike: nothing is told apart
])
def test_glues_figures_are_those_of_their_formulas(
    true: list[int], predicted: list[int], matthews: float, f1: float,
) -> None:
    found = named_metrics.scores(["matthews", "f1_positive"], list(zip(predicted, true, strict=True)))
    assert found == {"matthews": pytest.approx(matthews), "f1_positive": pytest.approx(f1)}
