"""Parallel text: two files whose lines are translations of each other."""

from itertools import zip_longest
from pathlib import Path

from llmkit.data.files import Place
from llmkit.data.formats.base import FileReader, Format, Rows, lines_or_none
from llmkit.system.errors import DataError


class ParallelText(Format):
    """The files of a source that has a `target`: both are text, read side by side."""

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """{source, target} a line that says something in one of the two files; none where one of the two is bad."""
        ours, theirs = reader.files
        number = 0
        for line, translation in zip_longest(lines_or_none(ours, reader), lines_or_none(theirs, reader)):
            if line is None or translation is None:
                short, whole = (ours, theirs) if line is None else (theirs, ours)
                raise DataError(f"{short}:{number}: is the last line, and {whole} goes on: of parallel text, each line "
                                "has its translation.")
            number = line[0]
            said, meant = line[1], translation[1]
            if said is not None and meant is not None and (said.strip() or meant.strip()):
                yield {"source": said, "target": meant}, Place(str(ours), number)
