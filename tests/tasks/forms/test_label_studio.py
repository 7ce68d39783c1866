"""What was chosen in Label Studio is the label of a text, in each of its exports."""

import json
from typing import Any

import pytest

from llmkit.tasks.classification import Classification


def task(text: str, *choices: str, name: str = "mood", **more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"text": text}, "annotations": [{"id": 2, "was_cancelled": False, "result": [
        {"from_name": name, "to_name": "text", "type": "choices", "value": {"choices": list(choices)}}]}], **more}


def read(write: Any, rows: list[dict[str, Any]]) -> Any:
    reader = write(json.dumps(rows), name="export.json")
    return [row for row, _ in Classification().read(reader)], reader


def test_choices_of_tasks_are_labels(write: Any) -> None:
    nobody = {"id": 3, "data": {"text": "Hm."}, "annotations": [{"was_cancelled": True, "result": []}]}
    torn = task("Well.", "glad")
    torn["annotations"].append({"result": [{"from_name": "mood", "value": {"choices": ["sad"]}}]})
    rows, reader = read(write, [task("Good.", "glad"), task("Bad.", "sad"), nobody, torn])
    assert [tuple(row.values()) for row in rows] == [("Good.", "glad"), ("Bad.", "sad"), ("Well.", "glad")]
    assert (f"{reader.name}: an export of Label Studio, 4 tasks; 1 that nobody labelled are left out; of 1 annotators "
            "disagree, and the first counts") in reader.notes
    asked = [row for row, _ in Classification().stream(reader, answered=False)]
    assert [row["text"] for row in asked] == ["Good.", "Bad.", "Hm.", "Well."]


def test_several_choices_are_several_labels(write: Any) -> None:
    assert read(write, [task("Good.", "glad", "calm"), task("Bad.", "sad")])[0] == [
        {"text": "Good.", "label": ["glad", "calm"]}, {"text": "Bad.", "label": ["sad"]}]


def test_of_several_questions_one_is_named(write: Any) -> None:
    row = task("Good.", "glad")
    row["annotations"][0]["result"].append({"from_name": "stars", "type": "rating", "value": {"rating": 4}})
    reader = write(json.dumps([row]), name="export.json", label="mood")
    assert [found for found, _ in Classification().read(reader)] == [{"text": "Good.", "label": "glad"}]


MIN = {"id": 1, "annotator": 1, "annotation_id": 2, "created_at": "2024", "updated_at": "2024", "lead_time": 1.5}


@pytest.mark.parametrize(("values", "labels"), [
    (["glad", "sad"], ["glad", "sad"]),
    ([{"choices": ["glad", "calm"]}, "sad"], [["glad", "calm"], ["sad"]]),
])
def test_rows_of_json_min_and_csv_are_read(write: Any, values: list[Any], labels: list[Any]) -> None:
    import csv
    import io

    rows = [{"text": "Good.", "id": 1, "mood_of_it": value, **{k: v for k, v in MIN.items() if k != "id"}}
            for value in values]
    assert [row["label"] for row in read(write, rows)[0]] == labels
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows({**row, "mood_of_it": json.dumps(row["mood_of_it"]) if isinstance(row["mood_of_it"], dict)
                     else row["mood_of_it"]} for row in rows)
    assert [row["label"] for row, _ in Classification().read(write(text.getvalue(), name="export.csv"))] == labels
