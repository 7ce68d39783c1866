"""A table that is called .txt is read as one where a task reads it, and stays text where text is learned from."""

from pathlib import Path
from typing import Any

import pytest

from llmkit.data.formats._columns import kinds, likely, says_where_from
from llmkit.data.sources import open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError
from llmkit.tasks.classification import Classification
from llmkit.tasks.tagging import Tagging
from llmkit.tasks.translation import Translation

GOOD = [{"text": "good, really", "label": "1"}, {"text": "bad", "label": "0"}, {"text": "fine", "label": "1"}]
NEWS = ("体育\t马晓旭意外受伤让国奥警惕 无奈大雨格外青睐殷家军\n财经\t股市大涨三百点的原因何在今天\n"
        "体育\t国奥队昨日训练结束后回到酒店休息\n财经\t基金公司发布了最新的年报数据\n")
LICENCE = "CC-BY 2.0 (France) Attribution: tatoeba.org #{} (CK) & #{} (Martha)"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(content: str, name: str = "rows.txt", tables: bool = True, **fields: Any) -> Any:
    Path(name).write_text(content)
    return open_source(Source(name, fields=fields), tables=tables)


@pytest.mark.parametrize(("content", "note"), [
    ("text\tlabel\ngood, really\t1\nbad\t0\nfine\t1\n", "tabs"),
    ('text,label\n"good, really",1\nbad,0\nfine,1\n', "commas"),
    ("label;text\n1;good, really\n0;bad\n1;fine\n", "semicolons"),
    ("good, really\t1\nbad\t0\nfine\t1\n", "tabs"),
])
def test_rows_of_a_table_are_found_in_a_text_file(content: str, note: str) -> None:
    reader = opened(content)
    assert [row for row, _ in Classification().read(reader)] == GOOD
    assert reader.notes[0].startswith(f"rows.txt: {note} stand between its cells, so it is read as a table.")


def test_a_table_without_a_header_says_what_is_read() -> None:
    reader = opened(NEWS)
    assert [row["label"] for row, _ in Classification().read(reader)] == ["体育", "财经", "体育", "财经"]
    assert "column 1 is read as text and column 0 as label" in reader.notes[0]


def test_fields_make_a_text_file_a_table() -> None:
    reader = opened("good, really\t1\nbad\t0\nfine\t1\n", tables=False, text=0, label=1)
    assert [row for row, _ in Classification().read(reader)] == GOOD


@pytest.mark.parametrize(("content", "rows"), [
    ("__label__pos a film\n__label__neg\tbad\n", [{"text": "a film", "label": "pos"}, {"text": "bad", "label": "neg"}]),
    ("__label__a __label__b x\n__label__a y\n", [{"text": "x", "label": ["a", "b"]}, {"text": "y", "label": ["a"]}]),
])
def test_fasttexts_lines_begin_with_labels(content: str, rows: list[dict[str, Any]]) -> None:
    assert [row for row, _ in Classification().read(opened(content))] == rows


@pytest.mark.parametrize("content", [
    "one\ttwo\n", "The cat sat, and text was read.\nA dog ran, and then slept.\n", "a\tb\nc\nd\te\tf\n",
    "plain\nlines\n"])
def test_lines_that_are_no_table_stay_text(content: str) -> None:
    assert [row for row, _ in opened(content).rows()] == [{"text": line} for line in content.splitlines()]


def test_where_text_is_learned_a_table_is_text() -> None:
    assert [row for row, _ in opened(NEWS, tables=False).rows()] == [{"text": line} for line in NEWS.splitlines()]
    assert not Tagging.tables


def test_text_without_a_label_says_what_a_table_needs() -> None:
    with pytest.raises(DataError, match=r"It is read as text, a row a line\. Where each line has several cells, tabs"):
        Classification().read(opened("ENTY What is it ?\nDESC How ?\n"))


def test_a_column_of_licences_is_neither_text_nor_translation() -> None:
    pairs = [("Hi.", "嗨。"), ("Run.", "跑！"), ("Wait!", "等等！"), ("I won.", "我赢了。"), ("Hello!", "你好。")]
    rows = [(*pair, LICENCE.format(i * 37, i * 91)) for i, pair in enumerate(pairs)]
    reader = opened("".join("\t".join(row) + "\n" for row in rows), "anki.tsv")
    with pytest.raises(DataError, match=r"fields: \{source: 0, target: 1\}"):
        Translation().read(reader)


@pytest.mark.parametrize(("values", "expected"), [
    ([LICENCE.format(i, i * 7) for i in range(5)], True),
    (["https://a.org/1", "https://a.org/2"], True),
    (["2024-01-02", "2024-01-03 10:11:12"], True),
    (["a nice film", "a bad film", "a film"], False),
    (["It broke.", "It works.", None], False),
    (["今天天气很好", "今天天气不错"], False),
])
def test_what_says_where_rows_are_from_is_told_from_text(values: list[Any], expected: bool) -> None:
    assert says_where_from(values) is expected


def test_two_texts_and_a_label_are_a_pair() -> None:
    assert kinds({0: ["喜欢打篮球的男生", "我手机丢了", "大家好看吗", "求漫画全集"],
                  1: ["爱打篮球的男生", "我想买手机吗", "大家觉得好看", "求全集漫画"], 2: ["1", "1", "0", "1"]}) == {
        "text": 0, "text_pair": 1, "label": 2}
    assert likely("source", {"a": ["Hi", "Yes"], "b": ["longer", "texts"]}, first=True) == "a"
    assert likely("source", {"a": ["Hi", "Yes"], "b": ["longer", "texts"]}) == "b"
