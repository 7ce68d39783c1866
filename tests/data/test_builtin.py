"""Built-in text: every set is the same each time, and is what it says."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmkit.data import builtin
from llmkit.data.builtin import library, sets
from llmkit.system.errors import RequestError

FETCHED = ("chinese", "tang-poems")
"""Sets that come from a registry (test_chinese_text.py); the others are here with every Python."""


def read(name: str) -> list[dict[str, Any]]:
    return [row for row, _ in builtin.rows(name)]


@pytest.mark.parametrize(("name", "fields", "least"), [
    ("python-docs", ["text", "title"], 5000),
    ("docstring-summaries", ["text", "summary"], 1000),
    ("docstring-topics", ["text", "label"], 2000),
    ("docstring-questions", ["prompt", "response"], 2500),
    ("python-to-english", ["source", "target"], 1000),
])
def test_a_set_has_its_fields_and_size_and_no_row_twice(name: str, fields: list[str], least: int) -> None:
    rows = read(name)
    assert len(rows) >= least
    assert all(list(row) == fields for row in rows)
    assert all(value.strip() for row in rows for value in row.values())
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert all(field in builtin.describe(name) for field in fields)


def test_labels_are_a_kind_and_a_topic_where_that_is_clear() -> None:
    rows = read("docstring-labels")
    kinds, topics = {"module", "class", "function", "method"}, {*sets.TOPICS.values()}
    assert len(rows) > 3000
    assert all(row["labels"][0] in kinds and {*row["labels"][1:]} <= topics for row in rows)
    assert {len(row["labels"]) for row in rows} == {1, 2}


def test_choices_are_four_and_the_right_one_is_the_docstrings_own() -> None:
    rows, summaries = read("docstring-choices"), {row["text"]: row["summary"] for row in read("docstring-summaries")}
    assert len(rows) > 1000
    assert all(len(set(row["choices"])) == 4 for row in rows)
    assert all(row["choices"][row["answer"]] == summaries[row["question"]] for row in rows)
    shares = Counter(row["answer"] for row in rows)
    assert min(shares.values()) > 0.2 * len(rows)


def test_rows_are_numbered_from_one() -> None:
    assert [str(place) for (_, place), _ in zip(builtin.rows("python-docs"), range(2), strict=False)] == [
        "builtin:python-docs:1", "builtin:python-docs:2"]


def test_parsing_again_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = library.modules()[::8]  # all of them take seconds
    monkeypatch.setattr(library, "modules", lambda: some)

    def parsed(folder: str) -> dict[str, str]:
        monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / folder))
        return {name: builtin.fingerprint(name) for name in builtin.names() if name not in FETCHED}

    first = parsed("first")
    assert parsed("again") == first
    assert parsed("first") == first  # now from the cache
    assert len(set(first.values())) == len(builtin.names()) - len(FETCHED)


def test_the_documentation_is_about_two_megabytes_of_english() -> None:
    texts = [row["text"] for row in read("python-docs")]
    assert 1_200_000 < sum(map(len, texts)) < 4_000_000
    assert any(text.startswith('The "assert" statement\n\nAssert statements are a convenient way') for text in texts)
    words = Counter(word for text in texts for word in text.lower().split())
    assert words.most_common(1)[0][0] == "the"


def test_topics_are_eight_and_none_is_more_than_a_third() -> None:
    rows = read("docstring-topics")
    shares = {label: count / len(rows) for label, count in Counter(row["label"] for row in rows).items()}
    assert set(shares) == {"networking", "data-formats", "data-types", "numbers-and-dates", "concurrency", "files",
                           "testing-and-debugging", "graphics"}
    assert min(shares.values()) > 0.03
    assert max(shares.values()) < 0.35
    assert all(len(row["text"].split()) >= 8 for row in rows)


def test_a_docstring_says_what_it_says_in_the_library() -> None:
    import shutil

    answers = {row["prompt"]: row["response"] for row in read("docstring-questions")}
    assert answers["What does the Python function `shutil.rmtree` do?"] == "Recursively delete a directory tree."
    assert (shutil.rmtree.__doc__ or "").startswith("Recursively delete a directory tree.")
    summaries = {row["summary"]: row["text"] for row in read("docstring-summaries")}
    rest = summaries["Insert item x in list a, and keep it sorted assuming a is sorted."]
    assert rest.startswith("If x is already in a")


def test_tokens_of_source_lines_have_tags_of_what_they_name() -> None:
    from llmkit.data.builtin.python_lines import tagged_lines

    source = b"""from os.path import join
class Reader(io.Base):
    async def read(self, size=-1, *rest):
        return self.file.read(size, mode="r")(2) + f"{size} is left out"
        yield map(str, join("x", key=1))
"""
    assert [" ".join(f"{token}/{tag}" if tag != "O" else token for token, tag in zip(*row.values(), strict=True))
            for row in tagged_lines(source)] == [
        "from os/B-MODULE ./I-MODULE path/I-MODULE import join",
        "class Reader/B-CLASS ( io . Base ) :",
        "async def read ( self/B-PARAMETER , size/B-PARAMETER = - 1 , * rest/B-PARAMETER ) :",
        'yield map/B-CALL ( str , join/B-CALL ( "x" , key/B-ARGUMENT = 1 ) )']
    rows = read("python-tokens")
    assert len(rows) >= 3000
    assert all(len(row["tokens"]) == len(row["tags"]) for row in rows)
    assert {"B-CALL", "I-CALL", "B-CLASS", "B-FUNCTION", "B-MODULE", "B-PARAMETER"} <= {
        tag for row in rows for tag in row["tags"]}


def test_answers_are_where_they_say_and_a_quarter_of_the_questions_has_none() -> None:
    rows = read("docstring-answers")
    assert len(rows) >= 2000
    for row in rows:
        for text, start in zip(*row["answers"].values(), strict=True):
            assert row["context"][start:].startswith(text)
    none = sum(not row["answers"]["text"] for row in rows) / len(rows)
    assert 0.2 < none < 0.3
    import shutil

    (found,) = [row for row in rows if row["id"] == "shutil.rmtree" and row["answers"]["text"]]
    assert found["question"] == "What does rmtree of shutil do?"
    assert (shutil.rmtree.__doc__ or "").startswith(found["answers"]["text"][0])


def test_code_is_beside_what_it_does_and_has_no_docstring() -> None:
    pairs = {row["source"]: row["target"] for row in read("python-to-english")}
    (source,) = [source for source in pairs if source.startswith("def insort_right(")]
    assert source.startswith("def insort_right(a, x, lo=0, hi=None, *, key=None):\n    if key is None:\n")
    assert "sorted assuming" not in source
    assert pairs[source] == "Insert item x in list a, and keep it sorted assuming a is sorted."


def test_a_misspelt_name_is_told_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"'docstring-topic'\. Did you mean 'docstring-topics'\?$"):
        builtin.rows("docstring-topic")
