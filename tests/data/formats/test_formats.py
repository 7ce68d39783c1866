"""A format is one file of its folder: its name, its extensions, and how its rows are read."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmkit
from llmkit.data.formats import format_of, formats, suffixes

PAIRS = '''
"""Lines of `name = value`."""

from llmkit.data.files import Place
from llmkit.data.formats.base import Format, lines


class Pairs(Format):
    """One row a line."""

    suffixes = (".pairs",)

    def rows(self, path, reader):
        for number, line in lines(path, reader):
            name, _, value = line.partition(" = ")
            yield {"text": value, "name": name}, Place(str(path), number)
'''
READ = """
import gzip
import json
from llmkit.data.sources import open_source
from llmkit.recipe import Source
reader = open_source(Source("poem.pairs.gz"))
print(json.dumps([[*map(str, pair)] for pair in reader.documents()]))
"""


def run(program: str, folder: Path) -> Any:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env={"PYTHONPATH": str(folder)}, check=True,
                          capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout)


def test_a_new_format_is_one_new_file(tmp_path: Path) -> None:
    shutil.copytree(Path(llmkit.__file__).parent, tmp_path / "llmkit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "llmkit" / "data" / "formats" / "pairs.py").write_text(PAIRS)
    (tmp_path / "poem.pairs.gz").write_bytes(gzip.compress(b"title = The cat\nline = It sat.\n"))
    assert run(READ, tmp_path) == [["The cat", "poem.pairs.gz:1"], ["It sat.", "poem.pairs.gz:2"]]


def test_the_formats_are_the_files_of_their_folder() -> None:
    assert list(formats()) == ["jsonl", "json", "csv", "tsv", "parquet", "fasttext", "parallel", "table", "text"]


@pytest.mark.parametrize(("name", "kind"), [
    ("a.jsonl", "jsonl"), ("a.NDJSON.gz", "jsonl"), ("a.json", "json"), ("a.csv.gz", "csv"), ("a.tsv", "tsv"),
    ("a.parquet", "parquet"), ("a.txt", "text"), ("a.html", "text"), ("a", "text"), ("a.gz", "text"), (".csv", "text"),
])
def test_the_extension_says_the_format(name: str, kind: str) -> None:
    assert format_of(Path(name)) == kind


def test_no_two_formats_have_one_extension() -> None:
    assert len(suffixes()) == sum(len(form.suffixes) for form in formats().values())
