"""Parallel text: two files whose lines are translations of each other."""

from itertools import zip_longest
from pathlib import Path

from llmkit.data.files import Place
from llmkit.data.formats.base import FileReader, Format, Rows, lines
from llmkit.system.errors import DataError


class ParallelText(Format):
    """The files of a source that has a `target`: both are text, read side by side."""

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """{source, target} a line that says something in one of the two files."""
        ours, theirs = reader.files
        number = 0
        for line, translation in zip_longest(lines(ours, reader), lines(theirs, reader)):
            if line is None or translation is None:
                short, whole = (ours, theirs) if line is None else (theirs, ours)
                raise DataError(f"{short}:{number}: is the last line, and {whole} goes on: of parallel text, each line "
                                "has its translation.")
            number = line[0]
            if line[1].strip() or translation[1].strip():
                yield {"source": line[1], "target": translation[1]}, Place(str(ours), number)
