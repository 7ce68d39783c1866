"""Questions that stand below their text, as in SQuAD's articles and CMRC 2018's contexts: to a row a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmkit.data.sources import Place
from llmkit.system.errors import DataError

PARAGRAPHS = "paragraphs"
QUESTIONS = ("qas", "questions", "qa_list", "qa_pairs")
"""What a text calls the list of its questions."""
BELOW = ("context", "context_text", "passage", "paragraph", "text", "document", "title", "context_id", "doc_id")
"""What a text says that is true of each of its questions."""
HEADER = {"header"}
"""MRQA's first line says of which data set the others are."""


def is_header(row: Mapping[str, Any]) -> bool:
    """Whether a row is none, but says what the file is: {"header": {"dataset": "SQuAD", …}}."""
    return row.keys() == HEADER and isinstance(row["header"], Mapping)


def is_nested(row: Mapping[str, Any]) -> bool:
    """Whether a row holds questions in lists."""
    return isinstance(row.get(PARAGRAPHS), list) or any(isinstance(row.get(name), list) for name in QUESTIONS)


def questions(row: Mapping[str, Any], place: Place) -> Iterator[dict[str, Any]]:
    """A row a question, of an article, of a text with its questions, or of a row that is one already.

    {"context_id": "7", "context_text": "…", "qas": [{"query_text": "Who?", "query_id": "7_0", "answers": ["Ada"]}]}
        ->  {"context_id": "7", "context_text": "…", "query_text": "Who?", "query_id": "7_0", "answers": ["Ada"]}

    DataError, with file and line, where one of the lists isn't one of objects.
    """
    if isinstance(row.get(PARAGRAPHS), list) and "question" not in row:
        above = _true_of_all(row)
        for paragraph in _objects(row[PARAGRAPHS], PARAGRAPHS, place):
            yield from questions({**above, **paragraph}, place)
        return
    name = next((name for name in QUESTIONS if isinstance(row.get(name), list)), None)
    if name is None:
        yield dict(row)
        return
    above = _true_of_all(row)
    for question in _objects(row[name], name, place):
        yield {**above, **question}


def _true_of_all(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in BELOW if name in row}


def _objects(value: Any, name: str, place: Place) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"{place}: {name!r} must be a list of objects, as in SQuAD (data, paragraphs, qas) or "
                        "CMRC 2018 (context_text, qas).")
    return value
