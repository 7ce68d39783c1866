"""Tags of words: by which scheme they mark entities, which entities these are, and how many are right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Span = tuple[str, int, int]
"""The kind of an entity, its first word and the one after its last."""
OUTSIDE = "O"
"""The tag of a word that is in no entity."""
TAG = re.compile(r"([BIMESLUW])[-_](.+)")
"""A tag of an entity: where in it the word stands, and of what kind it is."""
_TURNED = re.compile(r"(.+)[-_]([BIMESLUW])")
"""The same the other way round: PER-B."""

MARKS = {"IOB1": "IB", "IOB2": "IB", "IOE2": "IE", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BIMESW"}
"""What stands before the kind of an entity, by scheme."""


def parts(tag: str) -> tuple[str, str] | None:
    """(mark, kind) of a tag of an entity, whichever stands first: B-PER and PER-B are ("B", "PER"); None for others."""
    found = TAG.fullmatch(tag)
    if found is not None:
        return found[1], found[2]
    turned = _TURNED.fullmatch(tag)
    return None if turned is None else (turned[2], turned[1])


def foreign(tags: Sequence[str], scheme: str) -> str | None:
    """The first tag that a scheme doesn't have, if there is one."""
    found = ((tag, parts(tag)) for tag in tags)
    return next((tag for tag, one in found if one is not None and one[0] not in MARKS.get(scheme, one[0])), None)


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """How tags mark entities, from which of them there are; B- and I- of IOB1 and IOB2 differ only in their order.

    IOB1 has B- only between two neighbours of one kind, IOB2 at the start of every entity.
    """
    marks, between, opens = set(), True, False
    for tags in sentences:
        before = ""
        for tag in tags:
            if tag == OUTSIDE:
                before = ""
                continue
            found = parts(tag)
            if found is None:
                return "plain"
            mark, kind = found
            marks.add(mark)
            between = between and (mark != "B" or before == kind)
            opens = opens or (mark == "I" and before != kind)
            before = kind
    if not marks:
        return "plain"
    if marks & set("LU"):
        return "BILOU"
    if marks & set("MW"):
        return "BMES"
    if marks == set("IE"):
        return "IOE2"
    if marks & set("ES"):
        return "BIOES"
    return "IOB1" if opens and between else "IOB2"


def entities(tags: Sequence[str], scheme: str) -> list[Span]:
    """The entities of a sentence; in IOB, an I- that goes on from nothing opens one, as conlleval has it.

    O B-PER I-PER O  ->  ("PER", 1, 3)
    """
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import Entities

    plain = respelled(tags)
    if scheme.startswith("IOB"):
        return [(kind, start, stop + 1) for kind, start, stop in get_entities(plain)]
    return [(one.tag, one.start, one.end) for one in Entities([plain], _strict(scheme)).entities[0]]


def scores(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], scheme: str = "auto") -> dict[str, float]:
    """Precision, recall and F1 of the entities, strictly by the scheme (seqeval), and the accuracy of words.

    For plain tags, the accuracy and macro F1.
    """
    flat = [tag for tags in true for tag in tags], [tag for tags in predicted for tag in tags]
    accuracy = sum(a == b for a, b in zip(*flat, strict=True)) / max(1, len(flat[0]))
    if scheme == "auto":
        scheme = scheme_of(true)
    if scheme == "plain":
        from sklearn.metrics import f1_score

        return {"accuracy": accuracy, "f1": float(f1_score(*flat, average="macro", zero_division=0))}
    from seqeval.metrics.v1 import precision_recall_fscore_support

    spelled = ([respelled(tags) for tags in some] for some in (true, predicted))
    precision, recall, f1, _ = precision_recall_fscore_support(
        *spelled, average="micro", scheme=_strict(scheme), zero_division=0)
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1), "accuracy": accuracy}


def _strict(scheme: str) -> Any:
    from seqeval import scheme as schemes

    return getattr(schemes, "IOBES" if scheme in ("BIOES", "BMES") else scheme)


def respelled(tags: Sequence[str]) -> list[str]:
    """Tags as seqeval has them: M-X is I-X, W-X is S-X, B_X and X-B are B-X; what is none of an entity's is O."""
    plain = {"M": "I", "W": "S"}
    found = map(parts, tags)
    return [OUTSIDE if one is None else f"{plain.get(one[0], one[0])}-{one[1]}" for one in found]


def inside(tag: str, known: Mapping[str, int]) -> str:
    """What a word's later tokens are: I-X or M-X after B-X, where there is such a tag; else the tag itself."""
    found = parts(tag)
    if found is None or found[0] != "B":
        return tag
    spelled = ("I" + tag[1:], "M" + tag[1:]) if TAG.fullmatch(tag) else (tag[:-1] + "I", tag[:-1] + "M")
    return next((other for other in spelled if other in known), tag)
