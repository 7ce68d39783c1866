"""Names that a data set has for the numbers of its classes."""

from types import SimpleNamespace
from typing import Any

import pytest

from llmkit.data.memory import memory_reader
from llmkit.tasks.classification import Classification
from llmkit.tasks.shared.labels import by_number, class_names, in_their_order, named

NAMES = {"label": ["no", "yes"], "topics": ["a", "b", "c"]}


def reader(kind: str = "memory", features: Any = None) -> Any:
    made = memory_reader([{"text": "a", "label": 1}], "memory:train")
    made.origin = SimpleNamespace(
        kind=kind, features=lambda: features, rows=lambda spare: iter([(ROW, "memory:train:1")]))
    return made


ROW = {"text": "a", "label": 1}
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
    "topics": {"feature": {"names": ["a", "b", "c"], "_type": "ClassLabel"}, "_type": "List"}}


def test_names_are_those_of_columns_with_classes() -> None:
    assert class_names(reader(features=FEATURES)) == NAMES
    assert class_names(reader()) == {}
    assert class_names(reader("hub", FEATURES)) == {}  # whose runs have numbers


@pytest.mark.parametrize(("value", "name"), [
    ({"label": 0}, {"label": "no"}), ({"label": -1}, {"label": -1}), ({"label": 2}, {"label": 2}),
    ({"label": None}, {"label": None}), ({"label": True}, {"label": True}), ({"label": "yes"}, {"label": "yes"}),
    ({"topics": [0, 2]}, {"topics": ["a", "c"]}), ({"topics": []}, {"topics": []}),
    ({"topics": [1, 0, 1]}, {"topics": [1, 0, 1]}), ({"other": 1}, {"other": 1}),
])
def test_a_number_of_a_class_is_its_name(value: dict[str, Any], name: dict[str, Any]) -> None:
    assert named(value, NAMES) == name


@pytest.mark.parametrize(("found", "known"), [
    (["yes"], ("no", "yes")), (["yes", "no"], ("no", "yes")), (["c", "a"], ("a", "b", "c")), (["x", "y"], ("x", "y"))])
def test_classes_stand_in_the_order_of_the_data_set(found: list[str], known: tuple[str, ...]) -> None:
    assert in_their_order(found, reader(features=FEATURES)) == known


def test_a_model_of_numbers_is_given_numbers() -> None:
    (plain,) = by_number([reader(features=FEATURES)], ["0", "1"])
    assert class_names(plain) == {}
    for labels in (None, ["no", "yes"], ["yes", "perhaps"]):
        (one,) = by_number([reader(features=FEATURES)], labels)
        assert class_names(one) == NAMES


@pytest.mark.parametrize(("task", "label"), [
    (Classification(), "yes"), (Classification(labels=["0", "1"]), 1), (Classification(problem="regression"), 1.0)])
def test_rows_are_read_with_names_where_a_label_is_one(task: Classification, label: Any) -> None:
    assert next(task.stream(reader(features=FEATURES)))[0] == {"text": "a", "label": label}
    assert next(task.stream(reader(features=FEATURES), answered=False))[0] == {"text": "a"}
