"""Questions that stand below their text are a row each: SQuAD's articles, CMRC 2018's contexts, MRQA's lines."""

import json
from typing import Any

import pytest

from llmkit.system.errors import DataError
from llmkit.tasks.question_answering import QuestionAnswering

CMRC = [{"context_id": "DEV_0", "context_text": "北京是中国的首都。", "title": "北京", "qas": [
    {"query_text": "首都是哪里？", "query_id": "DEV_0_QUERY_0", "answers": ["北京", "北京"]},
    {"query_text": "北京是谁的首都？", "query_id": "DEV_0_QUERY_1", "answers": ["中国"]}]}]
PARAGRAPH = {"context": "Ada wrote notes.", "qas": [{"id": "7", "question": "Who wrote?", "answers": [
    {"text": "Ada", "answer_start": 0}]}]}
ADA = [{"id": "7", "question": "Who wrote?", "context": "Ada wrote notes.", "answers": [
    {"text": "Ada", "answer_start": 0}]}]


@pytest.mark.parametrize("content", [CMRC, {"data": CMRC}])
def test_cmrc_2018_is_read_in_its_own_form(write: Any, content: Any) -> None:
    reader = write(json.dumps(content, ensure_ascii=False), name="cmrc.json")
    assert [row for row, _ in QuestionAnswering().read(reader)] == [
        {"id": "DEV_0_QUERY_0", "question": "首都是哪里？", "context": "北京是中国的首都。",
         "answers": [{"text": "北京", "answer_start": 0}, {"text": "北京", "answer_start": 0}]},
        {"id": "DEV_0_QUERY_1", "question": "北京是谁的首都？", "context": "北京是中国的首都。",
         "answers": [{"text": "中国", "answer_start": 3}]}]
    assert f"{reader.name}: 2 questions are nested in their texts; each is a row" in reader.notes


@pytest.mark.parametrize(("content", "name"), [
    ([{"title": "Notes", "paragraphs": [PARAGRAPH]}], "articles.json"),
    ([PARAGRAPH], "paragraphs.json"),
    ([{"context_text": "Ada wrote notes.", "query_text": "Who wrote?", "query_id": "7", "answers": ["Ada"]}],
     "flat.json"),
    ({"version": "1.3", "data": [{"title": "Notes", "id": "1", "paragraphs": [{**PARAGRAPH, "id": "1-1"}]}]},
     "drcd.json"),
])
def test_articles_paragraphs_and_flat_rows_are_the_same_rows(write: Any, content: Any, name: str) -> None:
    assert [row for row, _ in QuestionAnswering().read(write(json.dumps(content), name=name))] == ADA


def test_the_first_line_of_mrqa_is_no_row(write: Any) -> None:
    lines = [{"header": {"dataset": "SQuAD", "split": "train"}},
             {"id": "", "context": "Ada wrote notes.", "qas": [
                 {"qid": "7", "question": "Who wrote?", "answers": ["Ada"]}]}]
    reader = write(lines)
    assert [row["answers"] for row, _ in QuestionAnswering().read(reader)] == [[{"text": "Ada", "answer_start": 0}]]


def test_questions_that_are_none_are_told_with_their_line(write: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:2: 'qas' must be a list of objects"):
        QuestionAnswering().read(write([PARAGRAPH, {"context": "Ada wrote.", "qas": ["Who?"]}]))
