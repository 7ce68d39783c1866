"""Words with tags behind a slash are tagged words: People's Daily, and Brown."""

from typing import Any

import pytest

from llmkit.system.errors import DataError
from llmkit.tasks.tagging import Tagging

DAILY = ("19980101-01-001-001/m  迈向/v  新/a  世纪/n  ——/w\n"
         "\n"
         "19980101-01-001-002/m  [中央/n  电视台/n]nt  长{chang2}/a  １/m  张/q\n")


def test_peoples_daily_is_read_a_sentence_a_line(write: Any) -> None:
    reader = write(DAILY, name="daily.txt")
    assert [row for row, _ in Tagging().read(reader)] == [
        {"tokens": ["迈向", "新", "世纪", "——"], "tags": ["v", "a", "n", "w"]},
        {"tokens": ["中央", "电视台", "长", "１", "张"], "tags": ["n", "n", "a", "m", "q"]}]
    assert reader.notes == [
        f"{reader.name}: words with tags behind a slash, a sentence a line; 1 names in brackets ([…]nt), whose words "
        "have tags of their own, are passed over; 2 numbers of articles before a line are passed over; 1 notes of how "
        "a character is spoken are passed over"]
    assert next(row for row, _ in Tagging().stream(reader, answered=False)) == {"tokens": ["迈向", "新", "世纪", "——"]}


@pytest.mark.parametrize(("line", "words", "tags"), [
    ("The/at Fulton/np-tl County/nn-tl and/or/cc ./.", ["The", "Fulton", "County", "and/or", "."],
     ["at", "np-tl", "nn-tl", "cc", "."]),
    ("//w [/w x/n ]/w", ["/", "[", "x", "]"], ["w", "w", "n", "w"]),
    ("[a/n [b/n c/n]nt]nz d/v", ["a", "b", "c", "d"], ["n", "n", "n", "v"]),
    ("[人民网/nz 讯/ng]/nt 报道/v", ["人民网", "讯", "报道"], ["nz", "ng", "v"]),
])
def test_a_tag_is_what_follows_the_last_slash(write: Any, line: str, words: list[str], tags: list[str]) -> None:
    assert [row for row, _ in Tagging().read(write(f"{line}\n", name="words.txt"))] == [{"tokens": words, "tags": tags}]


def test_a_word_without_a_tag_is_told_with_its_line(write: Any) -> None:
    with pytest.raises(DataError, match=r"words\.txt:2: 'd' has no tag; here a word is word/TAG"):
        Tagging().read(write("a/n b/v c/n d/v e/v\nc/n d\n" + "a/n b/v c/n d/v e/v\n" * 3, name="words.txt"))


def test_columns_with_slashes_in_words_stay_columns(write: Any) -> None:
    assert [row for row, _ in Tagging().read(write("1/2 B-X\nand/or O\n", name="words.txt"))] == [
        {"tokens": ["1/2", "and/or"], "tags": ["B-X", "O"]}]
