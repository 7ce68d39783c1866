"""Questions with several documents to find the answer in, of which some were chosen: DuReader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DOCUMENTS, PARAGRAPHS, CHOSEN, NEAREST = "documents", "paragraphs", "is_selected", "most_related_para"
WRITTEN = ("answers", "fake_answers")
"""What people answered, and the part of a document that is nearest to it."""


def has_documents(row: Mapping[str, Any]) -> bool:
    """Whether a row's texts are paragraphs of documents: {"documents": [{"paragraphs": ["…"]}], "question": "…"}."""
    several = row.get(DOCUMENTS)
    return isinstance(several, list) and bool(several) and "context" not in row and all(
        isinstance(one, Mapping) and isinstance(one.get(PARAGRAPHS), list) for one in several)


def with_context(row: Mapping[str, Any], answered: bool) -> dict[str, Any] | None:
    """A row with one context; None where no answer stands in any paragraph, letter for letter.

    {"documents": [{"is_selected": true, "paragraphs": ["The sky is blue."]}], "question": "…", "answers": ["blue"]}
        ->  {"question": "…", "context": "The sky is blue.", "answers": ["blue"]}

    Of answers, the first that stands in a paragraph is the answer: of the chosen documents first, and of each the
    paragraph that is nearest to the question first. Of rows to answer, the context is all that was chosen.
    """
    rest = {name: value for name, value in row.items() if name not in (DOCUMENTS, *WRITTEN)}
    ordered = list(_paragraphs(row[DOCUMENTS]))
    if not answered:
        return {**rest, "context": "\n".join(ordered)}
    for name in WRITTEN:
        for answer in row.get(name) or ():
            text = answer.strip() if isinstance(answer, str) else ""
            context = next((one for one in ordered if text and text in one), None)
            if context is not None:
                return {**rest, "context": context, "answers": [text]}
    return None


def _paragraphs(several: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Those of the documents that were chosen; of all where none was, or nobody says."""
    chosen = [one for one in several if one.get(CHOSEN)] or several
    for one in chosen:
        texts, first = one[PARAGRAPHS], one.get(NEAREST)
        order = [first] if isinstance(first, int) and 0 <= first < len(texts) else []
        for number in [*order, *(i for i in range(len(texts)) if i not in order)]:
            if isinstance(texts[number], str) and texts[number].strip():
                yield texts[number]
