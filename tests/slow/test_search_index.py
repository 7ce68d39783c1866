"""Search with a real encoder: better than words alone where the answer is known. Minutes, and pip fetches the model."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from llmkit.data import builtin
from llmkit.inference.search import Searcher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_minilm_finds_a_docstring_by_its_first_line_better_than_words_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    rows = {row["text"]: row["summary"] for row, _ in builtin.rows("docstring-summaries")}
    bodies = list(rows)[::4]
    (tmp_path / "bodies.jsonl").write_text("".join(json.dumps({"text": body}) + "\n" for body in bodies))
    queries = [rows[body] for body in bodies]
    hits = Searcher.open(tmp_path / "bodies.jsonl").search(queries, 5)
    found = np.mean([i + 1 in [hit.line for hit in some] for i, some in enumerate(hits)])
    words = TfidfVectorizer(sublinear_tf=True)
    table = words.fit_transform(bodies)
    ranks = np.argsort(-(words.transform(queries) @ table.T).toarray(), axis=1)[:, :5]
    assert found >= np.mean([i in row for i, row in enumerate(ranks)]) + 0.05
