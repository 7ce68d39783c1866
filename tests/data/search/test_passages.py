"""Passages: paragraphs with their headings, long ones cut at sentences; pages without their tags."""

import time

import pytest
from conftest import stories

from llmkit.data.search.folders import listed
from llmkit.data.search.passages import BREAK, passages
from llmkit.data.search.web import readable
from llmkit.system.errors import DataError


def words(texts):
    """A token is a word, or a Chinese character."""
    return [len(text.split()) if text.isascii() else len(text) for text in texts]


def cut(text, most, unit="paragraph"):
    return [text[start:stop] for start, stop in passages(text, words, most, unit)]


def test_a_paragraph_is_a_passage_with_its_heading():
    text = "# Cats\n\nCats purr. They sleep.\n\n\nDogs bark.\n   \n## Birds\n\n- sing\n- fly\n"
    assert cut(text, 20) == ["# Cats\n\nCats purr. They sleep.", "Dogs bark.", "## Birds\n\n- sing\n- fly"]


def test_lines_stand_alone_where_no_blank_lines_part_them():
    text = "cats purr\ndogs bark\n  birds sing\n"
    assert cut(text, 20, "line") == ["cats purr", "dogs bark", "  birds sing"]
    assert cut(text, 20) == [text.rstrip()]
    assert cut("cats purr\ndogs bark.\n\nbirds", 20, "line") == ["cats purr\ndogs bark.", "birds"]


def test_what_is_about_one_thing_is_cut_only_where_it_is_too_long():
    text = "one two\nthree\n\nfour five six\n\nseven eight nine ten"
    assert cut(text, 20, "whole") == [text]
    assert cut(text, 6, "whole") == ["one two\nthree\n\nfour five six", "seven eight nine ten"]


def test_a_long_paragraph_is_cut_at_sentences_and_the_last_short_one_is_said_again():
    text = ("One two three four five. Six seven. Eight nine ten eleven twelve thirteen fourteen. Fifteen sixteen "
            "seventeen eighteen. Nineteen.")
    assert cut(text, 10) == ["One two three four five. Six seven.",
                             "Six seven. Eight nine ten eleven twelve thirteen fourteen.",
                             "Fifteen sixteen seventeen eighteen. Nineteen."]


def test_chinese_is_cut_at_its_own_full_stops():
    text = "今天天气很好。我们去公园散步吧！你觉得怎么样？"
    assert cut(text, 16) == ["今天天气很好。我们去公园散步吧！", "你觉得怎么样？"]


def test_a_sentence_that_is_too_long_is_cut_at_lines_then_at_words_then_anywhere():
    assert cut("a b c\nd e f\n\ng.", 3) == ["a b c", "d e f", "g."]
    assert cut("- a. b c\n- d.\n- e f g", 4) == ["- a. b c", "- d.", "- e f g"]
    assert cut("a b c d e f", 3) == ["a b c", "d e f"]
    assert cut("今天天气很好我们去公园散步", 7) == ["今天天气很好", "我们去公园散步"]
    assert [len(part) for part in cut("x" * 100, 5)] == [50] * 2  # one word, but ten characters are a token at least


@pytest.mark.parametrize("most", [3, 10, 40])
def test_nothing_is_lost_and_no_passage_is_too_long(most):
    text = "\n\n".join(("\n" if i % 3 else " ").join(stories(3, i)) for i in range(12))
    seen = set()
    for start, stop in passages(text, words, most):
        assert words([text[start:stop]])[0] <= most
        seen |= set(range(start, stop))
    assert {i for i, char in enumerate(text) if not char.isspace()} <= seen


def test_what_has_no_token_is_no_passage():
    assert cut(" \n\t\n", 5) == []
    assert passages("a\n\n\u200b", lambda texts: [int(text == "a") for text in texts], 5) == [(0, 1)]


def test_a_page_is_read_without_tags_in_its_own_lines():
    page = ("<html><head><title>T</title>\n<script>\nvar x = '<p>no</p>';\n</script></head>\n<body>\n"
            "<h1>Cats</h1>\n<p>They <b>purr</b> &amp;\nsleep.</p><p>Dogs\n  bark.<br>Loud.</p></body>")
    text = readable(page)
    found = [(text[:start].count("\n") + 1, text[start:stop].split(BREAK)) for start, stop in passages(text, words, 20)]
    assert [(line, [part.strip() for part in parts if part.strip()]) for line, parts in found] == [
        (6, ["Cats", "They purr &\nsleep."]), (8, ["Dogs\n  bark."]), (9, ["Loud."])]


@pytest.mark.parametrize("piece", ["<a ", "<!--", "<!", "<?", "</a ", "<a b='", "<script>", "<![CDATA[", "&#x110000;&"])
def test_a_page_of_tags_that_never_close_is_read_once(piece):
    started = time.process_time()
    assert "before" in readable(f"<p>before {piece * 40_000}")
    assert time.process_time() - started < 5


def test_what_stands_behind_a_tag_that_never_closes_is_read():
    long = "words and words " * 1000
    said = readable(f"<p>before <a href='x {long}<b>after</b> the end")
    assert "before" in said
    assert said.endswith("after the end")
    assert readable(f"<p>one <!-- two {long}").startswith(f"{BREAK}one ")


def test_a_text_too_large_for_the_memory_is_passed_over_unread(tmp_path):
    (tmp_path / "small.txt").write_text("the cat sat\n")
    with (tmp_path / "large.log").open("w") as file:
        file.write("a" * 10_000)
        file.truncate(2**30 + 1)  # it takes no room on the disk
    found = listed([str(tmp_path)])
    assert [source.inside for source in found.sources] == ["small.txt"]
    assert found.passed_over == {"a text of more than 1,073,741,824 bytes": [str(tmp_path / "large.log")]}
    with pytest.raises(DataError, match="is a text of more than 1,073,741,824 bytes; only text can be searched"):
        listed([str(tmp_path / "large.log")])
