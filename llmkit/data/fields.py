"""What the fields of a row are called: by the recipe, by their own names, or as the data sets of others call them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from llmkit.data.files import Place
from llmkit.data.formats._columns import LABELS, fits, likely, without_sources
from llmkit.recipe import Source
from llmkit.system.errors import DataError
from llmkit.system.terminal import shell_word

if TYPE_CHECKING:
    from llmkit.data.sources import Reader

Column = TypeVar("Column", bound=str | int)

ALIASES: dict[str, tuple[str, ...]] = {
    "text": ("content", "document", "sentence", "body", "article", "passage", "review"),
    "label": ("labels", "class", "category", "target", "sentiment", "topic"),
    "summary": ("highlights", "abstract"),
    "question": ("query",),
    "context": ("passage",),
    "answers": ("answer",),
    "prompt": ("instruction", "input", "question"),
    "response": ("completion", "output", "answer"),
    "source": ("src",),
    "target": ("tgt", "translation"),
    "tokens": ("words",),
    "tags": ("ner_tags", "pos_tags"),
    "sentence1": ("premise", "anchor", "sentence_a"),
    "sentence2": ("hypothesis", "positive", "sentence_b"),
    "score": ("similarity", "rating", "stars"),
    "id": ("idx", "index", "title", "messages", "chosen", "rejected"),
}
"""What fields are called in the data sets that people have."""
CHINESE: dict[str, tuple[str, ...]] = {
    "text": ("文本", "正文", "内容", "內容", "评论", "評論", "评论内容", "反馈内容", "句子", "文章", "原文", "标题",
             "標題", "问题", "問題"),
    "text_pair": ("句子2", "文本2", "假设", "假設"),
    "label": ("标签", "標籤", "类别", "類別", "分类", "分類", "情感", "情感倾向", "类型", "類型", "分数", "分數",
              "评分", "評分"),
    "question": ("问题", "問題", "提问", "題目", "题目"),
    "context": ("上下文", "段落", "文章", "背景", "正文", "原文", "内容", "內容"),
    "answers": ("答案", "回答"),
    "answer": ("答案", "正确答案", "正確答案"),
    "choices": ("选项", "選項"),
    "prompt": ("指令", "问题", "問題", "提问", "提示", "输入", "輸入"),
    "response": ("回答", "答案", "回复", "回覆", "输出", "輸出"),
    "system": ("系统", "系統", "系统提示"),
    "summary": ("摘要", "总结", "總結", "概要", "标题", "標題"),
    "source": ("原文", "源文", "源语言"),
    "target": ("译文", "譯文", "翻译", "翻譯", "目标"),
    "tokens": ("词语", "詞語", "词", "字", "分词", "文本", "句子"),
    "tags": ("标注", "標註", "标签", "標籤", "词性", "詞性"),
    "sentence1": ("句子1", "文本1", "句子一", "问题1"),
    "sentence2": ("句子2", "文本2", "句子二", "问题2"),
    "score": ("相似度", "分数", "分數", "得分", "评分", "評分", "标签", "標籤"),
    "chosen": ("更好的回答", "好回答"),
    "rejected": ("更差的回答", "差回答"),
    "id": ("编号", "編號", "序号", "序號", "工单号"),
}
"""What fields are called in Chinese tables."""
FIELD_WORDS = frozenset(
    word.casefold() for names in (ALIASES, CHINESE) for name, others in names.items() for word in (name, *others))
"""Any of these words in a first row makes it a header."""
IN_ORDER = frozenset({"source", "target", "sentence1", "sentence2"})
"""Fields that stand one after the other in a file, whichever is longer."""
MOST_COLUMNS = 200
"""Columns that are looked at for a hint, and that an error lists."""
SAMPLE = 200
"""Rows from which it is told what a column holds."""


def find_fields(
    columns: Sequence[Column],
    wanted: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
    reader: Reader,
    place: Place | None = None,
) -> dict[str, Column]:
    """Which column holds which field, by the recipe's `fields`, else the field's own name, else its aliases.

    wanted, optional   field -> other names that it goes by; upper and lower case are one
    place              where the columns were seen, if that is closer than the source

    find_fields(["Review", "stars"], {"text": ["review"], "label": ["stars"]}, {}, reader)
        -> {"text": "Review", "label": "stars"}

    Raises DataError with the columns there are and how to name one in the recipe; optional fields may be absent.
    """
    exact: dict[str | int, Column] = {column: column for column in columns}
    plain = {str(column).strip().casefold(): column for column in reversed(columns)}
    fields = {**wanted, **optional}
    found: dict[str, Column] = {}
    for name in fields:
        asked = reader.source.fields.get(name)
        if asked in exact:
            found[name] = exact[asked]
        elif isinstance(asked, int) and name in exact:
            found[name] = exact[name]  # a column that was numbered in the recipe goes by its field's name
        elif asked is not None:
            near = get_close_matches(str(asked), list(map(str, columns[:MOST_COLUMNS])), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{place or reader.name}: no column is called {asked!r}; there is {listed(columns)}.{hint}")
    for name in fields:
        if name not in found and name in plain and plain[name] not in found.values():
            found[name] = plain[name]
    for name, aliases in fields.items():
        if name not in found:
            others = (*aliases, *CHINESE.get(name, ()))
            free = (plain[alias.casefold()] for alias in others if alias.casefold() in plain)
            column = next((column for column in free if column not in found.values()), None)
            if column is not None:
                found[name] = column
    missing = [name for name in wanted if name not in found]
    if missing:
        words = " or ".join(map(repr, (missing[0], *wanted[missing[0]])))
        raise DataError(f"{place or reader.name}: no column is called {words}; there is {listed(columns)}. "
                        f"{_way_out(reader, columns, {name: wanted[name] for name in missing}, found, place)}")
    return {name: found[name] for name in fields if name in found}


def _way_out(
    reader: Reader, columns: Sequence[str | int], missing: Mapping[str, Sequence[str]],
    found: Mapping[str, str | int], place: Place | None,
) -> str:
    """How to say which columns the missing fields are, by what is written in them."""
    if reader.document is not None:
        return (f"It is read as text, a row a {reader.document}. Where each line has several cells, tabs between them "
                "make it a table (text TAB label); or give a .csv, .tsv or .jsonl file.")
    held = _held(reader, place)
    free = [column for column in columns if column not in found.values()][:MOST_COLUMNS]
    meant: dict[str, str | int] = {}
    for name, aliases in missing.items():
        free = [column for column in free if column not in meant.values()]
        able = without_sources({column: held[column] for column in free if column in held})
        names = {str(column).strip().casefold(): column for column in free
                 if column not in able or fits(name, able[column])}
        near = [names[match] for word in (name, *aliases) for match in get_close_matches(word, list(names), n=1)]
        column = near[0] if near else next(iter(free), None) if not able else likely(
            name, able, first=name in IN_ORDER)
        if column is None and able and not meant:
            what = "is a label" if name in LABELS else "holds text"
            paste = pasted(reader.source, {name: "COLUMN"}, reader.at)
            return f"No other column {what}: " + ", ".join(
                f"{column!r} has {shown(next(iter(values), None))}" for column, values in able.items()) + (
                f". If one is meant all the same: {paste}." if reader.at else ".")
        meant[name] = "COLUMN" if column is None else column
    if not reader.at or (reader.origin is not None and reader.origin.kind == "memory"):
        return f"Rename it in the {'rows' if reader.at else 'file'}: " + ", ".join(
            f"{column!r} to {name!r}" for name, column in meant.items()) + "."
    numbers = reader.headerless.get(Path(place.file) if place else reader.files[0]) if reader.headerless else None
    if numbers is not None:  # numbers name all columns or none
        meant = {name: numbers.get(str(column), column) for name, column in {**found, **meant}.items()}
        meant = {name: int(column) if str(column).isdecimal() else column for name, column in meant.items()}
    return f"Name {'it' if len(meant) == 1 else 'them'} in the recipe: {pasted(reader.source, meant, reader.at)}."


def _held(reader: Reader, place: Place | None) -> dict[str | int, list[Any]]:
    """What the columns of a file hold in its first rows, as far as these can be read."""
    if reader.origin is not None and reader.origin.kind == "held":
        return {}  # rows that come once
    files = tuple(path for path in reader.files if place is not None and str(path) == place.file) or reader.files
    if files in reader.held:
        return reader.held[files]
    held = reader.held.setdefault(files, {})
    try:
        for row, _ in islice(replace(reader, files=files, bad={}, notes=[]).rows(), SAMPLE):
            for column, value in row.items():
                held.setdefault(column, []).append(value)
    except DataError:
        pass  # that a later row is bad is told another time
    return held


def pasted(source: Source, fields: Mapping[str, str | int], at: str) -> str:
    """What says in a command which column holds which field: --set data.train='{source: r.csv, fields: {text: 1}}'.

    at   the field of a recipe that names the source: data.train, data.validation, data.train.1
    """
    about: dict[str, Any] = {"source": source.source}
    about |= {name: value for name, value in (("target", source.target), ("weight", source.weight)) if value}
    about |= {"split": source.split} if source.split != "train" else {}
    about |= {"encoding": source.encoding} if source.encoding != "utf-8" else {}
    about["fields"] = {**source.fields, **fields}
    return f"--set {at}={shell_word(_flow(about))}"


def _flow(value: Any) -> str:
    """A value as YAML on one line, without single quotes where it can be."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    written: str = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=2**31).strip()[1:-1]
    return json.dumps(value, ensure_ascii=False) if written.startswith("'") else written


def shown(value: Any) -> str:
    """A value in the words of JSON, for an error: `a number (7)`."""
    if value is None:
        return "null"
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return f"{kinds.get(type(value), type(value).__name__)} ({str(value)[:40]})"


def no_text(field: str, column: str | int, value: Any, place: Place) -> DataError:
    """What is wrong with a value that should be a text; of an object, how a part of it is named instead."""
    return DataError(f"{place}: the field {column!r} is no text: {value!r:.200}.{part_of(field, column, value)}")


def part_of(field: str, column: str | int, value: Any) -> str:
    """How a part of an object is named, for an error; nothing where it is none.

    {"id": 3, "name": "sports"} in the column label  ->  … fields: {label: label.name}
    """
    parts = value if isinstance(value, Mapping) else {}
    inner = [key for key, one in parts.items() if isinstance(one, str)] or [*parts]
    if not inner:
        return ""
    return (f" If a part of it is meant, name it by the way to it: --set data.train='{{source: FILE, fields: "
            f"{{{field}: {column}.{inner[0]}}}}}'.")


def with_parts(row: dict[str, Any], ways: Sequence[str]) -> dict[str, Any]:
    """A row with a column more for each way that leads into one of its objects, called by the way.

    {"label": {"id": 3, "name": "sports"}}, label.name  ->  {"label": …, "label.name": "sports"}
    """
    found = dict[str, Any]()
    for way in ways:
        held: Any = row
        for step in () if way in row else way.split("."):
            held = held.get(step) if isinstance(held, Mapping) else None
        if held is not row and held is not None:
            found[way] = held
    return {**row, **found} if found else row


def listed(columns: Sequence[str | int] | Mapping[str, Any]) -> str:
    """Columns in a row, for an error; `none` where there is none."""
    more = f" and {len(columns) - MOST_COLUMNS:,} more" if len(columns) > MOST_COLUMNS else ""
    return ", ".join(map(str, islice(columns, MOST_COLUMNS))) + more or "none"
