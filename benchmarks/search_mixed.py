"""Does ranking by words beside meaning find more? Recall and MRR of each and of both, on questions in SQuAD's form.

    python benchmarks/search_mixed.py xquad.en.json cmrc2018_trial.json builtin:docstring-summaries

Each paragraph is a document, each question a query, and right is the question's own paragraph; a file that is named is
searched by itself. Paragraphs are ranked by the best of their passages.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

DOCSTRINGS = "builtin:docstring-summaries"


def asked(path: Path) -> tuple[list[str], list[str], list[int]]:
    """(paragraphs, questions, which paragraph is each question's) of a file in SQuAD's form; or of the docstrings."""
    pairs = []
    if str(path) == DOCSTRINGS:
        from llmkit.data import builtin

        pairs = [(row["text"], row["summary"]) for row, _ in builtin.rows(DOCSTRINGS.partition(":")[2])]
    else:
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            pairs += [(one["context"], qa["question"]) for one in article["paragraphs"] for qa in one["qas"]]
    pairs = [(text, question) for text, question in pairs if question.strip()]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for text, _ in pairs))}
    return list(numbers), [question for _, question in pairs], [numbers[text] for text, _ in pairs]


def figures(found: Sequence[Sequence[int]], right: Sequence[int]) -> tuple[float, float, float]:
    """(recall@1, recall@5, mean reciprocal rank among the first ten)"""
    places = [some.index(own) + 1 if own in (some := list(dict.fromkeys(rows))[:10]) else None
              for rows, own in zip(found, right, strict=True)]
    return (float(np.mean([place == 1 for place in places])),
            float(np.mean([place is not None and place <= 5 for place in places])),
            float(np.mean([0 if place is None else 1 / place for place in places])))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", type=Path, nargs="+")
    options.add_argument("--model", default="minilm-l6")
    options.add_argument("--queries", type=int, help="so many of a file's questions, drawn at random")
    given = options.parse_args()
    from llmkit.inference.search import Searcher
    from llmkit.system import report

    report.to_stderr()
    print("| | ranked by | recall@1 | recall@5 | MRR@10 |\n|---|---|---|---|---|")
    for path in given.files:
        paragraphs, questions, right = asked(path)
        some = np.random.default_rng(0).permutation(len(questions))[: given.queries]
        questions, right = [questions[i] for i in some], [right[i] for i in some]
        stem = path.stem.replace(":", "-")
        place = Path(tempfile.gettempdir()) / f"llmkit-mixed-{stem}.jsonl"  # the index is kept by its path
        place.write_text("".join(json.dumps({"text": text}) + "\n" for text in paragraphs), encoding="utf-8")
        mixed = Searcher.open(place, given.model, mix=True)
        words, mixed.words = mixed.words, None
        assert words is not None
        meaning = [[hit.line - 1 for hit in hits] for hits in mixed.search(questions, 40)]
        lines = mixed.index.lines
        worded = [[int(lines[row]) - 1 for row in words.closest(question, 40)] for question in questions]
        mixed.words = words
        both = [[hit.line - 1 for hit in hits] for hits in mixed.search(questions, 40)]
        about = f"{path.stem}: {len(questions):,} questions, {len(paragraphs):,} paragraphs, {len(lines):,} passages"
        for name, found in ((f"meaning ({given.model})", meaning), ("words (BM25)", worded), ("both, `--mix`", both)):
            print(f"| {about} | {name} |" + "|".join(f" {one:.3f} " for one in figures(found, right)) + "|", flush=True)


if __name__ == "__main__":
    main()
