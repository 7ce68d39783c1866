"""Words beside meaning: BM25 by hand, in both languages, and the fusion of two orders."""

import math
from collections import Counter
from pathlib import Path

import pytest
from conftest import stories

from llmkit.cli import main
from llmkit.inference import words
from llmkit.inference.embedding import Embedder
from llmkit.inference.search import Searcher
from llmkit.system.errors import RequestError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def opened(encoder: Path) -> Embedder:
    return Embedder.open(encoder)


def bm25(query: str, texts: list[str]) -> list[float]:
    """Robertson and Zaragoza 2009 with Lucene's idf, ln(1 + (N - n + 0.5) / (n + 0.5)), k1 = 1.5 and b = 0.75."""
    counts = [Counter(words.terms(text)) for text in texts]
    mean = sum(count.total() for count in counts) / len(counts)
    scores = []
    for count in counts:
        score = 0.0
        for term in set(words.terms(query)):
            having = sum(term in other for other in counts)
            idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            score += idf * count[term] / (count[term] + 1.5 * (1 - 0.75 + 0.75 * count.total() / mean))
        scores.append(score)
    return scores


def test_words_of_both_languages_become_terms() -> None:
    assert words.terms("BERT预训练，2 times—naïve_x!") == ["bert", "预训", "训练", "2", "times", "naïve", "x"]
    assert words.terms("中 ok 《》") == ["中", "ok"]
    assert words.terms("… !") == []


def test_two_orders_become_one_by_their_places() -> None:
    assert words.fused([[7, 3, 5], [3, 9]]) == [3, 7, 9, 5]
    assert words.fused([[1, 2], []]) == [1, 2]


@pytest.mark.parametrize("query", ["the cat saw a dog .", "old KING, moon", "月亮和猫", "nothing of it"])
def test_passages_are_ranked_as_bm25_says(query: str, opened: Embedder) -> None:
    lines = [*sorted(set(stories(30, 21))), "猫看见了月亮。", "老国王喜欢月亮和猫。", "狗追帽子。"]
    Path("all.txt").write_text("\n".join(lines), encoding="utf-8")
    searcher = Searcher.open("all.txt", opened, mix=True)
    assert searcher.words is not None
    texts = [searcher.index.text(row)[1] for row in range(len(searcher.index))]
    scores = bm25(query, texts)
    found = searcher.words.closest(query, 8)
    assert len(found) == min(8, sum(score > 0 for score in scores))
    best = sorted(scores, reverse=True)
    assert [scores[row] for row in found] == pytest.approx(best[: len(found)], rel=1e-5)


def test_a_mixed_search_fuses_both_and_shows_cosines(opened: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*sorted(set(stories(30, 21))), "zebra 4711"]
    Path("all.txt").write_text("\n".join(lines))
    searcher = Searcher.open("all.txt", opened, mix=True)
    assert searcher.words is not None
    query = "zebra 4711 and the moon"
    near = [row for _, row in searcher.index.closest(searcher.embedder.embed([query], "query"), 50)[0]]
    expected = words.fused([near, searcher.words.closest(query, 50)])[:4]
    hits = searcher.search([query], 4)[0]
    assert [hit.line for hit in hits] == [int(searcher.index.lines[row]) for row in expected]
    alone = {hit.line: hit.score for hit in Searcher.open("all.txt", opened).search([query], 50)[0]}
    assert [hit.score for hit in hits] == pytest.approx([alone[hit.line] for hit in hits], abs=1e-4)
    assert main(["search", query, "--in", "all.txt", "--model", str(opened.opened.folder), "--mix", "--top", "1"]) == 0
    assert f"all.txt:{hits[0].line}" in capsys.readouterr().out


def test_a_text_that_stands_twice_comes_once_and_files_without_words_do(opened: Embedder) -> None:
    Path("all.txt").write_text("the cat saw the moon .\n. . .\nthe cat saw the moon .\n")
    hits = Searcher.open("all.txt", opened, mix=True).search(["cat", "?"], 5)
    assert [sorted(hit.line for hit in some) for some in hits] == [[1, 2], [1, 2]]


def test_without_the_library_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch, opened: Embedder) -> None:
    monkeypatch.setattr(words, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"--mix needs bm25s: pip install 'llmkit-train\[search\]'"):
        Searcher.open("all.txt", opened, mix=True)
