"""Line ends of old Macs, byte order marks within a file, separators with spaces: read as meant, counted and said."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkit.data import sources
from llmkit.data.decoding import oddities as odd
from llmkit.data.sources import Reader, open_source
from llmkit.recipe import Source


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(name: str, content: str, encoding: str = "utf-8", document: str = "auto") -> Reader:
    data = content.encode(encoding)
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return open_source(Source(name, encoding=encoding), document)


def documents(reader: Reader) -> list[tuple[str, str]]:
    return [(text, str(place)) for text, place in reader.documents()]


@pytest.mark.parametrize(("name", "content", "wanted", "lines"), [
    ("t.txt", "one\rtwo\rthree\r", ["one 1", "two 2", "three 3"], 3),
    ("t.txt", "one\rtwo\r\rthree", ["one\ntwo 1", "three 4"], 3),
    ("t.txt", "one\rand\r<|endoftext|>\rthree\r", ["one\nand 1", "three 4"], 4),
    ("t.txt.gz", "one\rtwo\r", ["one 1", "two 2"], 2),
    ("t.csv", 'text,label\rone,a\r"two\rlines",b\r', ["one 2", "two\nlines 3"], 4),
    ("t.tsv", "text\tlabel\rone\ta\r", ["one 2"], 2),
    ("t.jsonl", '{"text": "one"}\r{"text": "two"}\r', ["one 1", "two 2"], 2),
    ("t.json", '[{"text": "one"},\r{"text": "two"}]\r', ["one 1", "two 2"], 2),
])
def test_a_carriage_return_ends_a_line_where_nothing_else_does(
    name: str, content: str, wanted: list[str], lines: int,
) -> None:
    reader = opened(name, content)
    assert [f"{text} {place.rpartition(':')[2]}" for text, place in documents(reader)] == wanted
    assert reader.notes == [f"{name}: {lines} line ends are carriage returns alone, as on old Macs."]


@pytest.mark.parametrize("content", [
    "The plan.\r It is fixed.\nThe goats slept.\n", "a\rb\n", "\r\n", "a\r\nb\r\n", "a\r\n\rb",
])
def test_elsewhere_it_is_a_character_like_others(content: str) -> None:
    reader = opened("t.txt", f"x{content}", document="line")
    assert [text for text, _ in documents(reader)] == [
        line.removesuffix("\r") for line in f"x{content}".split("\n") if line.strip()]
    assert reader.notes == []


def test_a_line_end_far_into_a_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmkit.data.decoding import packing, text

    for module in (packing, text):
        monkeypatch.setattr(module, "CHUNK", 16)
    assert len(documents(opened("t.txt", "a\r" * 100 + "b\n" + "c\r" * 100))) == 2
    assert len(documents(opened("u.txt", "a\r" * 100))) == 100


def test_utf_16_has_such_line_ends_too() -> None:
    assert [text for text, _ in documents(opened("t.txt", "一\r二\r", "utf-16"))] == ["一", "二"]
    assert [text for text, _ in documents(opened("t.txt", "一\u0d0a二\u0a0d\n三\r四\n", "utf-16"))] == [
        "一\u0d0a二\u0a0d", "三\r四"]


@pytest.mark.parametrize(("name", "content", "wanted", "marks"), [
    ("t.txt", "\ufeffone\n\ufefftwo\n", ["one", "two"], 1),
    ("t.txt", "\ufeffone\n\n\ufefftwo\n\ufeff\nthree", ["one", "two", "three"], 2),
    ("t.jsonl", '\ufeff{"text": "one"}\n\ufeff{"text": "two"}\n', ["one", "two"], 1),
    ("t.csv", '\ufefftext\n"one"\n\ufeff"two"\n', ["one", "two"], 1),
    ("t.tsv", "text\n\ufeffone\n", ["one"], 1),
    ("t.txt.gz", "one\n\ufefftwo", ["one", "two"], 1),
    ("t.txt", "one\n\ufeff<|endoftext|>\ntwo", ["one", "two"], 1),
])
def test_byte_order_marks_of_files_put_one_after_the_other_are_left_out(
    name: str, content: str, wanted: list[str], marks: int,
) -> None:
    reader = opened(name, content)
    assert [text for text, _ in documents(reader)] == wanted
    assert reader.notes == [f"{name}: {marks} byte order marks before lines are left out: files were put one after the "
                            "other."]


@pytest.mark.parametrize("separator", ["<|endoftext|> ", " <|endoftext|>", "\t<|endoftext|>\t ", "<|endoftext|> \r"])
def test_spaces_around_a_separator_count_for_nothing(separator: str) -> None:
    reader = opened("t.txt", f"one\nand\n{separator}\ntwo\n{separator}\nthree\n")
    assert reader.document == "endoftext"
    assert [text for text, _ in documents(reader)] == ["one\nand", "two", "three"]
    assert reader.notes == ["t.txt: 2 lines of <|endoftext|> have spaces around it, and part documents too."]


def test_what_is_read_otherwise_than_before_has_another_fingerprint() -> None:
    """So tokens that were kept of it, and runs that learned from it, aren't taken for those of the same data."""
    for odd_one, plain in (("a\rb\r", "a\nb\n"), ("a\n\ufeffb\n", "a\nb\n")):
        assert opened("t.txt", odd_one).fingerprint() != opened("t.txt", plain).fingerprint()
    mixed = opened("t.txt", "a\n<|endoftext|>\nb\n<|endoftext|> \nc\n")
    assert mixed.odd == {Path("t.txt"): {"padded": 1}}
    both = opened("t.txt", "\ufeffa\r\nb\rc\r\n")
    assert both.odd == {} and both.notes == []


def test_what_is_odd_in_many_files_is_said_once() -> None:
    for name in "abc":
        opened(f"{name}.txt", "x\n\ufeffy\n")
    reader = open_source(Source("*.txt"))
    assert [len(list(reader.documents())) for _ in range(2)] == [6, 6]
    assert reader.notes == ["a.txt and 2 other files: 3 byte order marks before lines are left out: files were put one "
                            "after the other."]


def test_what_is_odd_in_a_large_file_is_remembered_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_CACHE", "cache")
    monkeypatch.setattr(sources, "LARGE", 4)
    assert opened("a.txt", "x\n\ufeffy\n").odd == {Path("a.txt"): {"marks": 1}}
    monkeypatch.setattr(sources, "oddities", lambda *about: {"marks": 7})
    assert opened("b.txt", "x\n\ufeffy\n").odd == {Path("b.txt"): {"marks": 1}}
    assert opened("b.txt", "x\n\ufeffz\n").odd == {Path("b.txt"): {"marks": 7}}


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", " ", "\n", "\n\n", "\r\n", "\ufeff", "\n\ufeff", "<|endoftext|>",
                                 "\n<|endoftext|> \n", "\n <|endoftext|>\n", "<|endof", "text|>"]),
                max_size=20).map("".join),
       st.integers(1, 40))
def test_oddities_are_counted_wherever_the_file_is_cut(
    monkeypatch: pytest.MonkeyPatch, content: str, size: int,
) -> None:
    monkeypatch.setattr(odd, "CHUNK", size)
    Path("t.txt").write_bytes(content.encode())
    ends = [line.removeprefix("\ufeff").removesuffix("\r") for line in content.split("\n")[1:]]
    wanted = {"marks": content.count("\n\ufeff"),
              "padded": sum(line != odd.SEPARATOR and line.strip(" \t") == odd.SEPARATOR for line in ends)}
    assert odd.oddities(Path("t.txt"), "utf-8", "t.txt", True) == {name: n for name, n in wanted.items() if n}


def test_notes_come_with_the_rows_of_a_task_too() -> None:
    reader = opened("t.jsonl", "".join(json.dumps({"text": "x"}) + "\r" for _ in range(3)))
    assert len(list(reader.rows())) == 3
    assert reader.notes == ["t.jsonl: 3 line ends are carriage returns alone, as on old Macs."]
