"""What `--set data.…` says of rows that no recipe names: a hint that was printed can be pasted."""

import pytest

from llmkit import recipe
from llmkit.recipe import Source
from llmkit.system.errors import RequestError


def test_a_printed_hint_is_read() -> None:
    found = recipe.data_of("r.csv", ["data.train={source: r.csv, encoding: gb18030, fields: {text: 正文, label: 1}}",
                                     "data.on_bad_row=skip"])
    assert found.train == [Source("r.csv", encoding="gb18030", fields={"text": "正文", "label": 1})]
    assert found.on_bad_row == "skip"
    assert recipe.data_of("r.csv", ["data.train.0.fields.text=review"]).train == [
        Source("r.csv", fields={"text": "review"})]
    assert recipe.data_of("-", ["data.train={source: stdin, fields: {text: t}}"]).train[0].fields == {"text": "t"}


@pytest.mark.parametrize(("setting", "message"), [
    ("training.max_steps=3", "--set training.max_steps: here only how rows are read can be said: data.train or"),
    ("data.packing=none", "--set data.packing: here only how rows are read can be said"),
    ("data.train=other.csv", "--set data.train: names other.csv, but what is read is r.csv"),
    ("data.train={source: r.csv, weight: 2}", "--set data.train: weight and split are for a recipe"),
    ("data.train={source: r.csv, feilds: {}}", "Did you mean 'fields'"),
    ("data.on_bad_row=never", "data.on_bad_row"),
    ("data.train", "write section.key=value"),
])
def test_anything_else_is_refused_by_its_name(setting: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        recipe.data_of("r.csv", [setting])
    assert message in str(caught.value)
