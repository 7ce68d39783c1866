"""Words and tags in columns, a word a line: CoNLL's files, CoNLL-U's, and those of the many who write them likewise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from llmkit.data.fields import CHINESE
from llmkit.data.files import Place
from llmkit.data.formats.base import FileReader, Rows, lines
from llmkit.data.sources import Reader
from llmkit.system.errors import DataError
from llmkit.tasks.shared.tagged.tags import OUTSIDE, parts

CELL = re.compile(r"[^ \t\r\n]+")
"""What stands between spaces and tabs: U+3000 and U+00A0 are words in files of Chinese characters."""
LOOKED_AT = 2000
"""Sentences from which it is told how a file is written."""
DOCUMENT = "-DOCSTART-"
"""Where a word would be, what CoNLL-2003 opens a document with."""
_PART = re.compile(r"[0-9]+[-.][0-9]+")
"""CoNLL-U's number of what is no word of its own: 1-2 of two words written as one, 1.1 of a word that isn't there."""
UNIVERSAL = 10
"""Columns of CoNLL-U: ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC."""

SENTENCE = re.compile(r"(?i)sent(ence)?[ _]?(#|id|idx|no|num|number|index)|句子?(编号|編號|序号|序號|号)")
"""The name of a column that says of which sentence a word is: `Sentence #`, sentence_id, sent_id …"""
WORDS = ("tokens", "token", "words", "word", "text", "form", "characters", "character", "char", *CHINESE["tokens"])
"""What the column of words is called."""
TAGS = ("tags", "tag", "ner_tags", "ner_tag", "ner", "iob", "bio", "entity", "labels", "label", "pos_tags", "pos_tag",
        "pos", *CHINESE["tags"])
"""What the column of tags is called; parts of speech last, for they often stand beside names."""
SEEN = 50
"""Rows of a table from which it is told that each is a word."""

Line = tuple[int, str]


@dataclass(frozen=True)
class Sentence:
    """The lines of a sentence, cut into columns."""

    words: list[str]
    tags: list[str] | None
    """None where it is to be predicted."""
    place: Place


@dataclass
class Columns:
    """How a file is written, told from its first sentences; and what was passed over in reading it."""

    path: Path
    width: int
    """Cells that most lines have."""
    tags: frozenset[str]
    """What stands last in them."""
    counted: bool
    """Whether the first column counts the words of a sentence."""
    universal: bool
    """Whether it is CoNLL-U."""
    left: Counter[str] = field(default_factory=Counter)

    def comment(self, line: str) -> bool:
        """Whether a line says something of the sentence: `# id 7` is no word, `# O` and `#nlp O` are."""
        if not line.startswith("#"):
            return False
        cells = CELL.findall(line)
        usual = len(cells) == self.width and not self.universal
        return not (usual and (self.width == 1 or cells[-1] in self.tags or _is_tag(cells[-1])
                               or not any(map(str.isalnum, cells[-1]))))

    def word(self, line: str) -> list[str] | None:
        """The cells of a line from its word on, the tag last; None where it has no word."""
        if self.comment(line):
            self.left["comments"] += 1
            return None
        cells = line.split("\t") if self.universal else CELL.findall(line)
        if cells[0] == DOCUMENT:
            return None
        if self.universal and len(cells) == UNIVERSAL:
            if _PART.fullmatch(cells[0]):
                self.left["parts"] += 1
                return None
            return [cells[1], cells[3]]
        if self.width > 1 and len(cells) == 1 and line[0] in " \t":
            self.left["wordless"] += 1
            return None
        return cells[1:] if self.counted and len(cells) > 1 and cells[0].isdecimal() else cells

    def notes(self) -> list[str]:
        """What was found and passed over, in words, with numbers."""
        said = []
        if self.universal:
            said.append("CoNLL-U: words are FORM, tags are UPOS")
        elif self.counted:
            said.append("the first column counts the words and is left out")
        of = {"comments": "{count} comment lines (# …) are passed over",
              "parts": "{count} lines that are no word of their own (1-2, 1.1) are passed over",
              "wordless": "{count} lines with a tag and no word are passed over"}
        said += [of[kind].format(count=f"{count:,}") for kind, count in self.left.items()]
        return [f"{self.path}: {'; '.join(said)}"] if said else []


def sentences(
    path: Path, reader: FileReader, columns: Columns, answered: bool, notes: list[str],
) -> Iterator[Sentence]:
    """The sentences of a file: blank lines stand between them, the word is the first column and the tag the last.

    What is no word (comments, numbers) is passed over and told in `notes` at the end. DataError where a word lacks its
    tag, to `reader.spare`.
    """
    for block in blocks(path, reader):
        numbers, cells = [], []
        for number, line in block:
            found = columns.word(line)
            if found is not None:
                numbers.append(number)
                cells.append(found)
        bare = next((i for i, line in enumerate(cells) if len(line) < 2), None) if answered else None
        if bare is not None:
            reader.spare(DataError(f"{Place(str(path), numbers[bare])}: {' '.join(cells[bare])!r} has no tag; a line "
                                   "is `word TAG`, and a blank one stands between two sentences."))
        elif cells:
            yield Sentence([line[0] for line in cells], [line[-1] for line in cells] if answered else None,
                           Place(str(path), numbers[0]))
    notes += [note for note in columns.notes() if note not in notes]


def blocks(path: Path, reader: FileReader) -> Iterator[list[Line]]:
    """Lines with no blank one between them, where a blank line has nothing but spaces and tabs."""
    block: list[Line] = []
    for number, line in lines(path, reader):
        if line.strip(" \t\r"):
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def look(path: Path, reader: FileReader) -> Columns:
    """How a file is written: how many columns, whether the first one counts, which tags there are."""
    some = [[line for _, line in block] for block in islice(blocks(path, reader), LOOKED_AT)]
    rows = [[line for line in block if not line.startswith("#")] for block in some]
    tabbed = [line.split("\t") for block in rows for line in block]
    universal = bool(tabbed) and all(len(cells) == UNIVERSAL and cells[0][:1].isdecimal() for cells in tabbed)
    cells = [[CELL.findall(line) for line in block] for block in rows]
    flat = [line for block in cells for line in block] or [CELL.findall(line) for block in some for line in block]
    width = Counter(map(len, flat)).most_common(1)[0][0] if flat else 1
    tags = frozenset(line[-1] for line in flat if len(line) == width > 1)
    counted = width > 1 and not universal and any(len(block) > 1 for block in cells) and all(
        _counts([line[0] for line in block]) for block in cells if block and block[0][0] != DOCUMENT)
    if counted and width == 2 and all(map(_is_tag, tags)):
        counted = False  # the words are numbers
    return Columns(path, width, tags, counted, universal)


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells are 1 2 3 … or 0 1 2 …"""
    return any(list(cells) == [str(i) for i in range(first, first + len(cells))] for first in (0, 1))


def is_tagged(path: Path, reader: FileReader) -> bool:
    """Whether the first sentence of a file has a tag at each word."""
    columns = look(path, reader)
    cells = next(filter(None, ([found for _, line in block if (found := columns.word(line)) is not None]
                               for block in blocks(path, reader))), [])
    return bool(cells) and all(len(line) > 1 and _is_tag(line[-1]) for line in cells)


def _is_tag(cell: str) -> bool:
    return cell == OUTSIDE or parts(cell) is not None


# ---- tables with a word in each row ----


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
        some = [row for row, _ in islice(aside.rows(), SEEN)]
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
