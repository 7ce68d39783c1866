"""jieba's dictionary: llmkit's cache has it, and nobody's file of the same name decides what a word is."""

import marshal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmkit.data import words

jieba = pytest.importorskip("jieba")

FORGED = marshal.dumps(({"我爱": 10**9, "北": 1, "京": 1, "天": 1}, 10**9))
"""A dictionary in which nothing is a word but what whoever left it wants."""


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache, and a folder of temporary files that others may write to; no dictionary is open."""
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    words._cutter.cache_clear()
    yield
    words._cutter.cache_clear()


def cut(text: str) -> list[str]:
    return [word for word, *_ in words._cutter().tokenize(text)]


@pytest.mark.parametrize("content", [FORGED, b"no dictionary"])
def test_a_dictionary_that_somebody_left_is_not_read(content: bytes, tmp_path: Path) -> None:
    left = tmp_path / "shared" / "jieba.cache"
    left.write_bytes(content)
    assert cut("我爱北京天安门") == ["我", "爱", "北京", "天安门"]
    assert left.read_bytes() == content


def test_jiebas_own_way_would_read_it(tmp_path: Path) -> None:
    """What this is for: without it, the words would be those of the file."""
    (tmp_path / "shared" / "jieba.cache").write_bytes(FORGED)
    assert [word for word, *_ in jieba.Tokenizer().tokenize("我爱北京天安门")] != ["我", "爱", "北京", "天安门"]


def test_nothing_is_left_among_the_temporary_files(tmp_path: Path) -> None:
    cut("我爱北京天安门")
    assert list((tmp_path / "shared").iterdir()) == []
    assert [path.name for path in (tmp_path / "cache" / "jieba").glob("*/[!.]*")] == ["jieba.cache"]


def test_it_is_made_once(tmp_path: Path) -> None:
    assert cut("我们学习自然语言处理。") == ["我们", "学习", "自然语言", "处理", "。"]
    (made,) = (tmp_path / "cache" / "jieba").glob("*/[!.]*")
    before = made.stat().st_mtime_ns, made.stat().st_ino
    words._cutter.cache_clear()
    assert cut("我们学习自然语言处理。") == ["我们", "学习", "自然语言", "处理", "。"]
    assert (made.stat().st_mtime_ns, made.stat().st_ino) == before
