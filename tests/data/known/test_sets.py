"""GLUE and CLUE by name: rows with our fields and names of labels, from a hub that is none and from folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmkit.data.known import sets
from llmkit.data.sources import open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.classification import Classification
from llmkit.tasks.multiple_choice import MultipleChoice
from llmkit.tasks.question_answering import QuestionAnswering

PAIR = {"sentence1": "A", "sentence2": "B", "label": 1, "idx": 0}
ASKED = {"context": "猫在睡觉。", "question": "谁？"}
QA = {**ASKED, "id": "7", "answers": {"text": ["猫"], "answer_start": [0]}}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # a row as the hub has it, and as a task reads it
    "nyu-mll/glue:cola": ({"sentence": "A", "label": 1, "idx": 0}, {"text": "A", "label": "acceptable"}),
    "nyu-mll/glue:sst2": ({"sentence": "A", "label": 0, "idx": 0}, {"text": "A", "label": "negative"}),
    "nyu-mll/glue:mrpc": (PAIR, {"text": "A", "text_pair": "B", "label": "equivalent"}),
    "nyu-mll/glue:qqp": ({"question1": "A", "question2": "B", "label": 1, "idx": 0},
                         {"text": "A", "text_pair": "B", "label": "duplicate"}),
    "nyu-mll/glue:stsb": ({**PAIR, "label": 2.5}, {"text": "A", "text_pair": "B", "label": 2.5}),
    "nyu-mll/glue:mnli": ({"premise": "A", "hypothesis": "B", "label": 2, "idx": 0},
                          {"text": "A", "text_pair": "B", "label": "contradiction"}),
    "nyu-mll/glue:qnli": ({"question": "A", "sentence": "B", "label": 1, "idx": 0},
                          {"text": "A", "text_pair": "B", "label": "not_entailment"}),
    "nyu-mll/glue:rte": (PAIR, {"text": "A", "text_pair": "B", "label": "not_entailment"}),
    "glue:wnli": (PAIR, {"text": "A", "text_pair": "B", "label": "entailment"}),
    "clue/clue:tnews": ({"sentence": "A", "label": 5, "idx": 0}, {"text": "A", "label": "106"}),
    "clue/clue:iflytek": ({"sentence": "A", "label": 118, "idx": 0}, {"text": "A", "label": "118"}),
    "clue/clue:afqmc": (PAIR, {"text": "A", "text_pair": "B", "label": "1"}),
    "clue/clue:cmnli": (PAIR, {"text": "A", "text_pair": "B", "label": "entailment"}),
    "clue/clue:ocnli": ({**PAIR, "label": 0}, {"text": "A", "text_pair": "B", "label": "neutral"}),
    "clue/clue:csl": ({"idx": 0, "corpus_id": 9, "abst": "A", "label": 1, "keyword": ["猫", "狗"]},
                      {"text": "A", "text_pair": "猫，狗", "label": "1"}),
    "clue/clue:cluewsc2020": (
        {"idx": 0, "text": "猫饿了，它叫。", "label": 0,
         "target": {"span1_text": "猫", "span1_index": 0, "span2_text": "它", "span2_index": 4}},
        {"text": "_猫_饿了，[它]叫。", "label": "true"}),
    "clue/clue:c3": (
        {"id": 1, "context": ["甲：猫呢？", "乙：在家。"], "question": "猫在哪儿？", "choice": ["家", "街"],
         "answer": "家"},
        {"question": "猫在哪儿？", "choices": ["家", "街"], "answer": 0, "context": "甲：猫呢？\n乙：在家。"}),
    "clue:cmrc2018": (QA, {**ASKED, "answers": [{"text": "猫", "answer_start": 0}]}),
    "clue:drcd": (QA, {**ASKED, "answers": [{"text": "猫", "answer_start": 0}]}),
}
TASKS = {"classification": Classification, "multiple_choice": MultipleChoice, "question_answering": QuestionAnswering}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub with the rows of ROWS; what it was asked for is under `asked`."""
    import datasets  # type: ignore[import-untyped]

    known: dict[str, Any] = {"asked": []}

    def load(name: str, config: str | None, split: str) -> Any:
        known["asked"].append((name, config, split))
        return datasets.Dataset.from_list([ROWS[f"{name}:{config}"][0]] * 2)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    return known


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_every_set_is_what_a_task_reads(hub: dict[str, Any], name: str) -> None:
    reader = open_source(Source(f"hub:{name}"))
    known = {**sets.GLUE, **sets.CLUE}[name.rpartition(":")[2]]
    task = TASKS[known.task]()
    first = next(iter(task.stream(reader)))[0]
    assert {field: first[field] for field in ROWS[name][1]} == ROWS[name][1]
    assert hub["asked"] == [(*name.rsplit(":", 1), "train")]


def test_labels_are_numbered_as_on_the_hub(hub: dict[str, Any]) -> None:
    from llmkit.tasks.shared.labels import in_their_order

    assert in_their_order(["contradiction", "neutral"], open_source(Source("hub:nyu-mll/glue:mnli"))) == (
        "entailment", "neutral", "contradiction")


def test_a_split_may_stand_behind_the_name_and_columns_may_be_named(hub: dict[str, Any]) -> None:
    open_source(Source("hub:nyu-mll/glue:sst2:validation"))
    plain = open_source(Source("hub:nyu-mll/glue:sst2", split="test", fields={"text": "sentence"}))
    assert hub["asked"] == [("nyu-mll/glue", "sst2", "validation"), ("nyu-mll/glue", "sst2", "test")]
    assert next(plain.rows())[0] == ROWS["nyu-mll/glue:sst2"][0]  # as the recipes before had them
    with pytest.raises(RequestError, match="names the split 'test', and `split` says 'validation'; leave out one"):
        open_source(Source("hub:nyu-mll/glue:sst2:test", split="validation"))


@pytest.mark.parametrize(("label", "message"), [
    ("hub:nyu-mll/glue", r"hub:nyu-mll/glue: nyu-mll/glue has several sets, and none is named; write "
                         r"hub:nyu-mll/glue:<set>, one of cola, sst2, mrpc, "),
    ("hub:nyu-mll/glue:sst", r"nyu-mll/glue has no set 'sst'; .*Did you mean 'sst2'\?$"),
    ("hub:clue/clue:chid", r"hub:clue/clue:chid: its texts have several gaps, .* no task of llmkit does that\.$"),
])
def test_a_set_that_is_not_there_or_fits_no_task_is_refused(hub: dict[str, Any], label: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_source(Source(label))
    assert hub["asked"] == []


# ---- folders ----


def cola(folder: Path) -> Any:
    import datasets

    def part(*labels: int) -> Any:
        return datasets.Dataset.from_dict({"sentence": [f"{number} cats." for number in range(len(labels))],
                                           "label": list(labels), "idx": list(range(len(labels)))})

    return datasets.DatasetDict({"train": part(1, 0, 1), "validation": part(0), "test": part(-1, -1)})


@pytest.mark.parametrize("layout", ["save_to_disk", "parquet", "data/parquet", "json lines"])
def test_a_folder_is_read_by_its_splits(tmp_path: Path, layout: str) -> None:
    parts, folder = cola(tmp_path), tmp_path / "glue" / "cola"
    place = folder / "data" if layout == "data/parquet" else folder
    place.mkdir(parents=True)
    if layout == "save_to_disk":
        parts.save_to_disk(str(folder))
    for name, part in parts.items() if layout != "save_to_disk" else ():
        if layout == "json lines":
            (place / f"{name.replace('validation', 'dev')}.json").write_text(
                "".join(json.dumps({**row, "label": str(row["label"])}) + "\n" for row in part))
        else:
            part.to_parquet(str(place / f"{name}-00000-of-00001.parquet"))

    def labels(label: str) -> list[str]:
        return [row["label"] for row, _ in Classification().read(open_source(Source(label)))]

    assert labels(str(folder)) == ["acceptable", "unacceptable", "acceptable"]
    assert labels(f"{folder}:validation") == ["unacceptable"]
    reader = open_source(Source(str(folder), split="validation"))
    assert str(next(reader.rows())[1]) == f"{folder}:1"
    with pytest.raises(RequestError, match=r"has no split 'tset', only .*train"):
        open_source(Source(f"{folder}:tset"))
    before = open_source(Source(str(folder))).fingerprint()
    assert folder.rename(tmp_path / "cola") and open_source(Source(str(tmp_path / "cola"))).fingerprint() == before


def test_a_folder_of_another_name_or_of_other_columns_is_no_known_set(tmp_path: Path) -> None:
    for name, row in (("films", {"sentence": "A", "label": 1}), ("sst2", {"words": "A", "label": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps(row) + "\n")
        assert next(open_source(Source(str(tmp_path / name))).rows())[0] == row


def test_a_folder_of_other_files_and_one_that_is_broken_are_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(DataError, match=r"is a folder; say which files: "):
        open_source(Source(str(tmp_path)))
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: the split train can't be read: "):
        open_source(Source(str(tmp_path)))
