"""SQuAD's nested JSON (articles, their paragraphs, their questions), read as one row a question."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llmkit.data.files import Place
from llmkit.system.errors import DataError

OPENING = re.compile(r'\{\s*(?:"\w+"\s*:\s*"[^"]*"\s*,\s*)*"data"\s*:\s*\[')
QUESTION = re.compile(r'"question"\s*:')


def opens(head: str) -> bool:
    """Whether a file that starts so is an object whose `data` is a list of articles."""
    return OPENING.match(head) is not None


def rows(text: str, file: str) -> Iterator[tuple[dict[str, Any], Place]]:
    """One row a question, with the line that its key stands on.

    {"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": […]}]}]}]}
        ->  {"title": …, "context": …, "id": …, "question": …, "answers": […]}

    Raises DataError where it is no JSON, or something has another form.
    """
    try:
        articles = json.loads(text)["data"]
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: bad JSON: {error.msg}.") from error
    except RecursionError as error:
        raise DataError(f"{file}: bad JSON: {error}.") from error
    places = _lines(text, file)
    for article in _objects(articles, "data", file):
        for paragraph in _objects(article.get("paragraphs"), "paragraphs", file):
            for question in _objects(paragraph.get("qas"), "qas", file):
                above = {**({"title": article["title"]} if "title" in article else {}),
                         "context": paragraph.get("context")}
                # a text that quotes the key in its middle escapes the quotes, so each match is a question's
                place = next(places, Place(file, None)) if "question" in question else Place(file, None)
                yield {**above, **question}, place


def _lines(text: str, file: str) -> Iterator[Place]:
    line, at = 1, 0
    for key in QUESTION.finditer(text):
        line, at = line + text.count("\n", at, key.start()), key.start()
        yield Place(file, line)


def _objects(value: Any, name: str, file: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{file}: {name!r} must be a list of objects, as in SQuAD: data, paragraphs, qas.")
    return value
