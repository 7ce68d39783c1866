"""Does search find a docstring by its first line? Recall of sentence embeddings beside words (TF-IDF).

    python benchmarks/search_docstrings.py --queries 500            # builds the index the first time: minutes

The bodies of the library's docstrings are searched, without their first lines; 500 of these, drawn at random, are the
queries. Right is a passage of the query's own docstring (or of one with the same body).
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np


def recall(found: list[list[str]], right: list[str], many: int) -> float:
    """The share of queries whose own body is among the first `many` that were found."""
    return float(np.mean([own in bodies[:many] for bodies, own in zip(found, right, strict=True)]))


def by_words(queries: list[str], bodies: list[str], top: int) -> list[list[str]]:
    """The closest bodies by cosines of TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True)
    table = words.fit_transform(bodies)
    cosines = (words.transform(queries) @ table.T).toarray()
    return [[bodies[i] for i in np.argsort(-row, kind="stable")[:top]] for row in cosines]


def by_meaning(queries: list[str], bodies: list[str], top: int, model: str, tokens: int) -> list[list[str]]:
    """The bodies of the closest passages, each once."""
    from llmkit.inference.search import Searcher

    # the same path each time: the index is kept by it
    path = Path(tempfile.gettempdir()) / "llmkit-docstring-bodies.jsonl"
    path.write_text("".join(json.dumps({"text": body}) + "\n" for body in bodies))
    started = time.monotonic()
    searcher = Searcher.open(path, model, passage_tokens=tokens)
    print(f"index: {searcher.indexed}, {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    hits = searcher.search(queries, 4 * top)
    print(f"{len(queries)} queries: {time.monotonic() - started:.1f} s")
    return [list(dict.fromkeys(bodies[hit.line - 1] for hit in some))[:top] for some in hits]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--queries", type=int, default=500)
    options.add_argument("--model", default="minilm-l6")
    options.add_argument("--passage-tokens", type=int, nargs="+", default=[128])
    given = options.parse_args()
    from llmkit.data import builtin
    from llmkit.system import report

    report.to_stderr()
    rows = [row for row, _ in builtin.rows("docstring-summaries")]
    bodies = list(dict.fromkeys(row["text"] for row in rows))
    chosen = random.Random(0).sample(rows, given.queries)
    queries, right = [row["summary"] for row in chosen], [row["text"] for row in chosen]
    found = {"TF-IDF": by_words(queries, bodies, 5)}
    for tokens in given.passage_tokens:
        found[f"{given.model}, passages of {tokens}"] = by_meaning(queries, bodies, 5, given.model, tokens)
    print(f"{len(queries)} first lines, {len(bodies)} bodies\n\n| | recall@1 | recall@5 |\n|---|---|---|")
    for name, some in found.items():
        print(f"| {name} | {recall(some, right, 1):.3f} | {recall(some, right, 5):.3f} |")


if __name__ == "__main__":
    main()
