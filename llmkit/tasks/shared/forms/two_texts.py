"""Columns that are two texts with one label: which names stand together in the data sets of others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text_a", "text_b"),
         ("question", "sentence"), ("question", "passage"), ("query", "passage"), ("query", "document"),
         ("claim", "evidence"), ("text1", "text2"), ("#1 string", "#2 string"), ("sentence_a", "sentence_b"),
         ("sent1", "sent2"), ("query1", "query2"), ("q1", "q2"), ("s1", "s2"), ("source", "target"), ("query", "title"),
         ("query", "reply"), ("question", "answer"),
         ("句子1", "句子2"), ("文本1", "文本2"), ("问题1", "问题2"), ("前提", "假设"))
"""GLUE's, SNLI's, QQP's, Chinese CLUE's, QNLI's, BoolQ's, MS MARCO's, FEVER's, MRPC's, SICK's, AFQMC's, Sohu's …"""


def two_texts(row: Mapping[Any, Any], named: Collection[str], labels: Sequence[str]) -> dict[str, Any]:
    """{"text": column, "text_pair": column} where two columns of a row are known as a pair; else nothing.

    named    fields that the recipe says; where one of the two is, nothing is guessed
    labels   what a label is called: a pair of which one is the only label is none
    """
    names = {str(name).strip().casefold(): name for name in row}
    if {"text", "text_pair"} & (names.keys() | set(named)):
        return {}
    for pair in PAIRS:
        if set(pair) <= names.keys() and all(isinstance(row[names[name]], str) for name in pair):
            rest = names.keys() - set(pair)
            if "label" in named or not set(pair) & {*labels, "label"} or rest & {*labels, "label"}:
                return {field: names[name] for field, name in zip(("text", "text_pair"), pair, strict=True)}
    return {}
