"""builtin:chinese and builtin:tang-poems: what is taken from their package, and how they are fetched; no network."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from llmkit.data import builtin
from llmkit.data.builtin import chinese
from llmkit.system.errors import DataError

QUIET = {"author": "李白", "title": "靜夜思", "paragraphs": ["牀前看月光，疑是地上霜。", "舉頭望山月，低頭思故鄉。"]}
FILES: dict[str, Any] = {
    "package/dist/quantangshi/poet.tang.0.json": [
        QUIET, {**QUIET, "title": "twice"}, {"author": "a", "title": "lost", "paragraphs": ["□前看月光，疑是地上霜。"]},
        {"author": "b", "title": "uneven", "paragraphs": ["白日依山盡，黃河入海流。", "欲窮千里目，更上。"]}],
    "package/dist/songci/ci.song.0.json": [
        {"rhythmic": "如梦令", "author": "李清照", "paragraphs": ["昨夜雨疏风骤。"]}],
    "package/dist/lunyu/lunyu.json": [{"chapter": "学而篇", "paragraphs": ["子曰：“学而时习之，不亦说乎？”"]}],
    "package/dist/sishuwujing/daxue.json": {"chapter": "大学", "paragraphs": ["大学之道，在明明德。"]},
    "package/dist/shuimotangshi/notes.json": [{"title": "modern notes", "paragraphs": ["今人的注释。"]}],
    "package/dist/quantangshi/error/poet.tang.0.json": [{"title": "wrong", "paragraphs": ["错字连篇。"]}],
    "../../outside.json": [QUIET],
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as npm fetches it, in the place of the real one."""
    path = tmp_path / "made.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in FILES.items():
            data = json.dumps(content, ensure_ascii=False).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setattr(chinese, "packaged", lambda archive, folder: path)
    monkeypatch.setattr(
        chinese, "POETRY", chinese.POETRY._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return path


@pytest.mark.usefixtures("package")
def test_texts_that_were_printed_whole_are_read_once() -> None:
    assert [(row["title"], row["text"]) for row, _ in builtin.rows("chinese")] == [
        ("学而篇", "子曰：“学而时习之，不亦说乎？”"), ("靜夜思", "牀前看月光，疑是地上霜。\n舉頭望山月，低頭思故鄉。"),
        ("uneven", "白日依山盡，黃河入海流。\n欲窮千里目，更上。"), ("大学", "大学之道，在明明德。"),
        ("如梦令", "昨夜雨疏风骤。")]


@pytest.mark.usefixtures("package")
def test_tang_poems_have_a_line_a_line() -> None:
    (row, place), = builtin.rows("tang-poems")
    assert row == {
        "text": "牀前看月光，\n疑是地上霜。\n舉頭望山月，\n低頭思故鄉。", "title": "靜夜思", "author": "李白"}
    assert str(place) == "builtin:tang-poems:1"


@pytest.mark.parametrize(("poem", "lines"), [
    ("一二三四五，一二三四五。一二三四五，一二三四五。", 4), ("一二三四五六七，" * 8, 8), ("一二三四五，" * 6, None),
    ("一二三四五六，" * 4, None), ("一二三四五，一二三四五六七。" * 2, None), ("", None)])
def test_a_regular_poem_has_4_or_8_equal_lines(poem: str, lines: int | None) -> None:
    found = chinese.regular(poem)
    assert (found and len(found.split("\n"))) == lines


def test_it_is_fetched_once_and_then_needs_no_network(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = builtin.fingerprint("chinese")
    monkeypatch.setattr(chinese, "packaged", lambda archive, folder: pytest.fail("fetched again"))
    monkeypatch.setenv("LLMKIT_OFFLINE", "1")
    assert builtin.fingerprint("chinese") == first
    kept, = (package.parent / "cache" / "texts").glob("chinese-poetry-*")
    assert (kept / "LICENCE.txt").read_text().startswith("chinese-poetry 2.0.1: MIT")


def test_another_package_than_the_pinned_one_is_refused(package: Path) -> None:
    package.write_bytes(package.read_bytes() + b"more")
    with pytest.raises(DataError, match="isn't the package that builtin:chinese is made of: its SHA-256 is"):
        list(builtin.rows("chinese"))


@pytest.mark.usefixtures("package")
def test_offline_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_OFFLINE", "1")
    with pytest.raises(DataError, match="builtin:chinese isn't on this machine, and LLMKIT_OFFLINE switches off"):
        list(builtin.rows("tang-poems"))


@pytest.mark.parametrize(("script", "said"), [
    ("#!/bin/sh\necho 'npm error 404 Not Found' >&2\nexit 1\n", "failed: npm error 404 Not Found"),
    ("#!/bin/sh\nexit 0\n", "failed: npm said nothing"), ("", "there is no npm here")])
def test_what_npm_says_is_told(script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if script:
        (tmp_path / "npm").write_text(script)
        (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    with pytest.raises(DataError, match=said):
        chinese.packaged(chinese.POETRY, tmp_path)


def test_npm_is_asked_for_the_pinned_version_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text('#!/bin/sh\necho "$@" > chinese-poetry-2.0.1.tgz\n')
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert chinese.packaged(chinese.POETRY, tmp_path).read_text() == (
        "pack chinese-poetry@2.0.1 --silent --ignore-scripts\n")
