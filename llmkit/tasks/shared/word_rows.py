"""Tables with a word in each row and a column that says of which sentence it is: its sentences, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

from llmkit.data.fields import CHINESE
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.system.errors import DataError
from llmkit.tasks.shared.conll import CELL

SENTENCE = re.compile(r"(?i)sent(ence)?[ _]?(#|id|idx|no|num|number|index)|句子?(编号|編號|序号|序號|号)")
"""The name of a column that says of which sentence a word is: `Sentence #`, sentence_id, sent_id …"""
WORDS = ("tokens", "token", "words", "word", "text", "form", "characters", "character", "char", *CHINESE["tokens"])
"""What the column of words is called."""
TAGS = ("tags", "tag", "ner_tags", "ner_tag", "ner", "iob", "bio", "entity", "labels", "label", "pos_tags", "pos_tag",
        "pos", *CHINESE["tags"])
"""What the column of tags is called; parts of speech last, for they often stand beside names."""
LOOKED_AT = 50
"""Rows from which it is told that each is a word."""


@dataclass
class WordTable:
    """Which column says what in a table of words."""

    sentence: str
    word: str
    tag: str | None
    """None where there is none."""

    def sentences(self, reader: Reader, answered: bool) -> Rows:
        """A row a sentence: its words and tags in lists, with the line of its first word.

        Sentence: 1  the  O        ->  {"tokens": ["the", "cat"], "tags": ["O", "B-X"]}
                     cat  B-X
        """
        fields = reader.source.fields
        names = {self.word: str(fields.get("tokens", "tokens")), self.sentence: self.sentence}
        names |= {self.tag: str(fields.get("tags", "tags"))} if self.tag is not None else {}
        sentences = words = 0
        for _, group in groupby(self._numbered(reader), key=lambda one: one[0]):
            (_, first, place), *rest = group
            rows = [first, *(row for _, row, _ in rest)]
            sentences, words = sentences + 1, words + len(rows)
            whole: dict[str, Any] = {names.get(name, name): [row.get(name) for row in rows] for name in first}
            mark = whole.pop(self.sentence)[0]
            yield whole if answered else {self.sentence: mark, **whole}, place
        note = (f"{reader.name}: its rows are words, and the column {self.sentence!r} says which are of one sentence: "
                f"{sentences:,} sentences of {words:,} words")
        if note not in reader.notes:
            reader.notes.append(note)

    def _numbered(self, reader: Reader) -> Iterator[tuple[int, Mapping[str, Any], Place]]:
        """Each row with the number of its sentence; a cell that is empty goes on with the one above."""
        number, before = 0, None
        for row, place in reader.rows():
            mark = "" if row.get(self.sentence) is None else str(row[self.sentence]).strip()
            if mark and mark != before:
                number, before = number + 1, mark
            if not isinstance(row.get(self.word), str) or not CELL.search(row[self.word]):
                reader.spare(DataError(f"{place}: the field {self.word!r} is empty; each row is a word of a sentence."))
                continue
            yield number, row, place


def word_table(reader: Reader) -> WordTable | None:
    """What the columns of a source say where each of its first rows is a word of a sentence; None where they aren't."""
    if reader.origin is not None and reader.origin.kind == "held":
        return None  # rows that come once
    aside = replace(reader, bad={}, notes=[], held={})
    try:
        some = [row for row, _ in islice(aside.rows(), LOOKED_AT)]
    except DataError:
        return None  # it is told when the rows are read
    sentence = next((name for name in some[0] if SENTENCE.fullmatch(str(name).strip())), None) if some else None
    if sentence is None or not all(_is_word(row, sentence) for row in some):
        return None
    plain = {str(name).strip().casefold(): name for name in reversed(some[0]) if name != sentence}
    fields = reader.source.fields
    word = next((name for name in (fields.get("tokens"), *(plain.get(one) for one in WORDS)) if name in some[0]), None)
    tag = next((name for name in (fields.get("tags"), *(plain.get(one) for one in TAGS))
                if name in some[0] and name != word), None)
    return None if word is None else WordTable(sentence, str(word), None if tag is None else str(tag))


def _is_word(row: Mapping[str, Any], sentence: str) -> bool:
    """Whether a row has no more than a word in each column, but for the one that counts sentences."""
    return all(cell is None or isinstance(cell, int) or (
        isinstance(cell, str) and len(CELL.findall(cell)) < 2 and (len(cell) < 2 or cell[0] not in "[("))
        for name, cell in row.items() if name != sentence)
