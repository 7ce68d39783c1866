"""Entities by where they stand in a text, as doccano, Label Studio and spaCy write them: to a tag for each word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmkit.data.fields import CHINESE
from llmkit.data.sources import Place
from llmkit.system.errors import DataError
from llmkit.tasks.shared.forms.label_studio import annotated
from llmkit.tasks.shared.lists import unwritten
from llmkit.tasks.shared.tagged.tags import OUTSIDE
from llmkit.tasks.shared.tagged.words import WORD

TEXTS = ("text", "sentence", "content", "data", "tokens", *CHINESE["text"])
"""Where the text is."""
COLUMNS = ("entities", "spans", "label", "labels", "annotations", "result", "tags", "ner", "实体", "實體",
           *CHINESE["tags"])
"""Where the spans are."""
STARTS = ("start", "start_offset", "start_char", "startOffset", "start_idx", "start_index", "begin", "offset")
ENDS = ("end", "end_offset", "end_char", "endOffset", "end_idx", "end_index", "stop")
KINDS = ("label", "labels", "type", "entity_type", "entity_group", "category", "tag", "class", "entity")
"""What one that is an object calls where it starts and ends, and of what kind it is."""
QUOTES = ("text", "word", "mention", "entity", "value")
"""Where it has the text that it marks."""


@dataclass(frozen=True)
class Mark:
    """What a row says of an entity: characters from start to end, of a kind; and its text, where that is given."""

    start: int
    end: int
    kind: str
    quote: str | None = None


@dataclass
class Spans:
    """The rows of a source whose tags are spans, and what became of them."""

    counts: Counter[str] = field(default_factory=Counter)
    column: str = ""

    def row(self, row: Mapping[str, Any], place: Place, fields: Mapping[str, str | int]) -> dict[str, Any]:
        """A row with words and tags in the place of text and spans; any other row as it is.

        {"text": "Anna left.", "label": [[0, 4, "PER"]]}  ->  {"tokens": ["Anna", "left", "."], "tags": ["B-PER", …]}

        DataError, with file and line, where a span isn't in its text.
        """
        row = _of_label_studio(row)
        if isinstance(row.get("tokens"), list) and all(isinstance(word, str) for word in row["tokens"]):
            return dict(row)  # its tags are those of its words
        texts = (str(fields["tokens"]),) if "tokens" in fields else TEXTS
        text = next((name for name in texts if isinstance(row.get(name), str)), None)
        columns = (str(fields["tags"]),) if "tags" in fields else COLUMNS
        there = {name: read for name in columns if name in row and name != text
                 and (read := _marks(row[name], place)) is not None and (read or name != "tags")}
        if text is None or not there:
            return dict(row)
        self.column = next((name for name, marks in there.items() if marks), next(iter(there)))
        words, tags = self.tagged(row[text], there[self.column], place)
        rest = {name: value for name, value in row.items() if name not in (text, self.column, "tokens", "tags")}
        return {**rest, str(fields.get("tokens", "tokens")): words, str(fields.get("tags", "tags")): tags}

    def tagged(self, text: str, marks: Sequence[Mark], place: Place) -> tuple[list[str], list[str]]:
        """The words of a text and a tag for each: of spans that overlap, the longest counts."""
        words = list(WORD.finditer(text))
        tags = [OUTSIDE] * len(words)
        found = [self._within(mark, text, place) for mark in marks]
        for start, end, kind in sorted(found, key=lambda one: (one[0] - one[1], one[0])):
            spots = [i for i, word in enumerate(words) if word.start() < end and word.end() > start]
            if not spots:
                self.counts["blank"] += 1
            elif any(tags[i] != OUTSIDE for i in spots):
                self.counts["overlapping"] += 1
            else:
                self.counts["within"] += words[spots[0]].start() < start or words[spots[-1]].end() > end
                tags[spots[0] : spots[-1] + 1] = [f"B-{kind}", *[f"I-{kind}"] * (len(spots) - 1)]
        self.counts["rows"] += 1
        self.counts["spans"] += len(marks)
        self.counts["none"] += not marks
        return [word[0] for word in words], tags

    def _within(self, mark: Mark, text: str, place: Place) -> tuple[int, int, str]:
        """Start, end and kind; where a quote says so, the end is that of the last character."""
        start, end = mark.start, mark.end
        if mark.quote is not None and 0 <= start <= end and not _alike(text[start:end], mark.quote):
            if not _alike(text[start : end + 1], mark.quote):
                raise DataError(f"{place}: the span from {start} to {end} is {text[start:end]!r}, not {mark.quote!r}, "
                                "as the row says; start and end count the text's characters, from 0.")
            end += 1
            self.counts["last"] += 1
        if not 0 <= start < end <= len(text):
            raise DataError(f"{place}: the span from {start} to {end} is in no text of {len(text)} characters; start "
                            "and end count these, from 0, and the end is the one after the last.")
        return start, end, mark.kind

    def note(self, name: str) -> str | None:
        """What was found, and what was left out, in words, with numbers; None where rows have no spans."""
        counts = self.counts
        if not counts["rows"]:
            return None
        said = [f"{name}: {counts['spans']:,} spans of the column {self.column!r} in {counts['rows']:,} rows are tags "
                "of words, B- the first word of each and I- the others"]
        more = {"none": "{count} rows have no span: their words are all O",
                "overlapping": "{count} spans are left out, for they overlap one that is as long or longer",
                "blank": "{count} spans are left out, for there is no word in them",
                "within": "{count} spans start or end within a word, which is tagged whole",
                "last": "{count} spans end at their last character, as their texts say, not behind it"}
        return "; ".join([*said, *(words.format(count=f"{counts[key]:,}")
                                   for key, words in more.items() if counts[key])])


def untagged(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of text to be tagged, as its words are to be: not those of a program (spaCy's tokens are objects)."""
    row, tokens = _of_label_studio(row), row.get("tokens")
    own = isinstance(tokens, list) and any(isinstance(one, Mapping) for one in tokens)
    return {name: value for name, value in row.items() if not own or name != "tokens"}


def _of_label_studio(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text and the spans of an export of Label Studio, which are nested; of several annotators, the first's.

    {"data": {"text": …}, "annotations": [{"result": [{"value": {"start": 0, …}}]}]}  ->  {"text": …, "result": […]}
    """
    found = annotated(row)
    if found is None:
        return row
    data, kept = found
    result = kept[0].get("result", []) if kept else []
    rest = {name: value for name, value in row.items() if name not in ("data", "annotations", "completions")}
    return {**rest, **data, "result": [one for one in result if not isinstance(one, Mapping) or "value" in one]}


def _marks(value: Any, place: Place) -> list[Mark] | None:
    """The spans that a field says; None where it says something else.

    [[0, 4, "PER"]]    [{"start": 0, "end": 4, "label": "PER"}]    {"PER": [[0, 4]]}    {"PER": {"Anna": [[0, 3]]}}
    """
    if isinstance(value, str):
        try:
            value = unwritten(value)
        except ValueError:
            return None
    if isinstance(value, Mapping) and isinstance(value.get("entities"), list):
        value = value["entities"]  # spaCy
    if isinstance(value, Mapping):
        return _by_kind(value)
    if not isinstance(value, list):
        return None
    found = [_of_list(one) if isinstance(one, list | tuple) else _of_object(one, place) for one in value]
    marks = [one for one in found if one is not None]
    return marks if len(marks) == len(value) else None


def _of_list(one: Sequence[Any]) -> Mark | None:
    """[0, 4, "PER"], or ["PER", 0, 4]."""
    numbers, kinds = [value for value in one if _whole(value)], [value for value in one if isinstance(value, str)]
    return Mark(numbers[0], numbers[1], kinds[0]) if (len(numbers), len(kinds), len(one)) == (2, 1, 3) else None


def _of_object(one: Any, place: Place) -> Mark | None:
    if not isinstance(one, Mapping):
        return None
    inner = one["value"] if isinstance(one.get("value"), Mapping) else one
    start = next((inner[name] for name in STARTS if _whole(inner.get(name))), None)
    end = next((inner[name] for name in ENDS if _whole(inner.get(name))), None)
    if start is not None and end is None and _whole(inner.get("length")):
        end = start + inner["length"]
    if start is None or end is None:
        return None
    named = next((name for name in KINDS if inner.get(name) not in (None, "", [])), None)
    kind = inner[named] if named is not None else None
    kind = kind[0] if isinstance(kind, list) else kind
    if named is None or not isinstance(kind, str | int):
        raise DataError(f"{place}: the span from {start} to {end} has no label.")
    quote = next((inner[name] for name in QUOTES if name != named and isinstance(inner.get(name), str)), None)
    return Mark(start, end, str(kind), quote)


def _by_kind(value: Mapping[str, Any]) -> list[Mark] | None:
    """{"PER": [[0, 4]]}, or with texts, {"PER": {"Anna": [[0, 3]]}} (CLUENER)."""
    found = list(_each_of_kind(value))
    marks = [one for one in found if one is not None]
    return marks if len(marks) == len(found) else None


def _each_of_kind(value: Mapping[str, Any]) -> Iterator[Mark | None]:
    for kind, some in value.items():
        for quote, places in some.items() if isinstance(some, Mapping) else [(None, some)]:
            for one in places if isinstance(places, list) else [None]:
                two = isinstance(one, list | tuple) and len(one) == 2 and all(map(_whole, one))
                yield Mark(one[0], one[1], str(kind), quote) if two and one is not None else None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _alike(found: str, quote: str) -> bool:
    r"""Whether two texts are the same, but for spaces; Label Studio writes a line's end as \n."""
    return "".join(found.split()) == "".join(quote.replace("\\n", " ").split())
