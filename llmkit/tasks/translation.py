"""Translation: a text in one language is read, the same in another is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.data.fields import find_fields
from llmkit.data.sources import Place, Reader
from llmkit.data.swapping.pairs import Swaps
from llmkit.objectives.base import Sets, Setup
from llmkit.prompting.shared.template import filled
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError
from llmkit.tasks.base import Encoded, Floors, Row, only_texts
from llmkit.tasks.shared.writing import Writing, framed, spread

LANGUAGES = {"en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "fi", "pl", "cs", "ro", "hu", "tr", "ru", "uk",
             "el", "ar", "he", "fa", "hi", "ta", "bn", "th", "vi", "id", "zh", "ja", "ko"}
"""Codes that columns are called by."""
BY_CHARACTER = {"ja", "ko", "th"}
"""Languages that sacreBLEU's own tokenizer doesn't split, or only with a dictionary."""


@dataclass(config=OPTIONS)
class Translation(Writing):
    """Write a text in another language; reports BLEU and chrF as sacreBLEU computes them, from 0 to 100."""

    template: str | None = None
    """How a source is written, with {source}, {source_lang} and {target_lang}: "translate English to German: {source}"
    for T5. Where nothing is said: an encoder-decoder reads the source alone, a decoder with a heading after it, and a
    chat model is told to translate."""
    source_lang: str | None = None
    """The language that is read, and the name of its column: en."""
    target_lang: str | None = None
    """The language that is written, and the name of its column; BLEU splits its words as the language wants: zh."""
    generation_rows: Annotated[int, Field(ge=0)] = 100
    """Validation rows that are translated at each evaluation while training; the last one translates all, unless the
    best model is kept."""

    wanted = {
        "source": ("src", "text", "sentence", "input", "code"),
        "target": ("tgt", "translation", "output", "label", "reference"),
    }
    answers = ("target",)
    example = (
        {"source": "The house is small.", "target": "Das Haus ist klein."},
        {"source": "We see the river.", "target": "Wir sehen den Fluss."},
    )
    verb = "translate"
    unswapped = "only one of their two sides has words of the list"
    long = "source"
    prompted = "source"

    def __post_init__(self) -> None:
        if self.template is not None and "{source}" not in self.template:
            raise ValueError("template must contain {source}")

    @property
    def languages(self) -> tuple[str, str]:
        """(read, written), each "" where nothing is said."""
        one, other = self.source_lang or "", self.target_lang or ""
        return (other, one) if self.reverse else (one, other)

    def codes(self, name: str) -> tuple[str, ...]:
        """A column may be called by its language."""
        code = self.source_lang if name == "source" else self.target_lang
        return (code,) if code else ()

    # ---- rows ----

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """Also columns that are called by a language; hub sets put them in {"translation": {"en": …}}."""
        if isinstance(row.get("translation"), dict):
            first = self.columns(row["translation"], reader, answered)
            return {"translation": "translation", **first}
        named = dict(zip(("source", "target"), (self.source_lang, self.target_lang)))
        wanted = {name: (*([code] if (code := named[name]) else []), *others) for name, others in self.wanted.items()
                  if answered or name not in self.answers}
        codes = [column for column in row if str(column).strip().casefold() in LANGUAGES]
        if not {"source", "target"} & (set(row) | set(reader.source.fields)) and len(codes) == 2:
            for name, code in zip(("source", "target"), sides(codes, self.source_lang, self.target_lang)):
                if name in wanted:
                    wanted[name] = (code, *wanted[name])
            note = f"{reader.label}: translated from {wanted['source'][0]!r}"
            if self.source_lang is self.target_lang is None and note not in reader.notes:
                reader.notes.append(note)
        return find_fields(list(row), wanted, {}, reader)

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Both sides are texts."""
        if "translation" in row:
            inside = row["translation"]
            if not isinstance(inside, dict):
                raise DataError(f"{place}: the field 'translation' is no object: {inside!r}.")
            columns = {name: column for name, column in columns.items() if name != "translation"}
            row = {name: inside.get(column) for name, column in columns.items()}
        return only_texts(super().check(row, columns, place), columns, place)

    def swapped(self, row: Row, swaps: Swaps) -> Row | None:
        """Both sides; None where only one of them has words of the list, for the other would say something else."""
        found = {**row, **{name: swaps(row[name]) for name in ("source", "target")}}
        return None if len({found[name] == row[name] for name in ("source", "target")}) == 2 else found

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Also say how BLEU is computed, so that others can compute the same."""
        sets = super().prepare(train, validation, setup)
        rows = [row for part in (sets.validation or sets.train) if isinstance(part, Encoded) for row in part.rows]
        told = str(bleu(self.splitter([row["target"] for row in rows]), [["a"]], ["a"])[1])
        return Sets(sets.train, sets.validation, sets.notes, {**sets.facts, "bleu_signature": told})

    def ask(self, row: Row, setup: Setup) -> str:
        """The source in its template."""
        reads, chat = setup.family.shape == "encoder-decoder", setup.tokenizer.chat_template is not None
        read, written = self.languages
        told = " to {target_lang}" if written else ""
        template = self.template or (
            "{source}" if reads or self.bare(setup) else f"Translate{told}:\n{{source}}" if chat
            else "{source}\n\nTranslation:\n")
        text = filled(template, {"source": row["source"].strip(), "source_lang": read,
                                 "target_lang": written})
        return framed(text, setup.tokenizer) if chat and not reads else text

    def answer(self, row: Row) -> str:
        """The target, without space around it."""
        return str(row["target"]).strip()

    # ---- figures ----

    def to_write(self, rows: int, last: bool) -> Sequence[int] | None:
        """Some, while training."""
        return spread(rows, None if last else self.generation_rows)

    def splitter(self, targets: Sequence[str]) -> str:
        """The name of sacreBLEU's tokenizer for the target language: as the recipe says, or by the letters."""
        code = self.languages[1].casefold().partition("-")[0].partition("_")[0]
        if code in LANGUAGES:
            return "zh" if code == "zh" else "char" if code in BY_CHARACTER else "13a"
        text = "".join(targets[:1000])
        letters = sum(map(str.isalpha, text)) or 1
        han, kana, rest = (len(re.findall(group, text)) / letters
                           for group in ("[\u4e00-\u9fff]", "[\u3040-\u30ff]", "[\uac00-\ud7af\u0e00-\u0e7f]"))
        return "char" if kana > 0.05 or rest > 0.3 else "zh" if han > 0.3 else "13a"

    def scores(self, written: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
        """BLEU and chrF of all of them together."""
        true = [str(row["target"]).strip() for row in rows]
        return {"bleu": bleu(self.splitter(true), [true], written)[0], "chrf": chrf([true], written)}

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """The source as it stands."""
        return {"the source copied": self.scores([row["source"].strip() for row in held], held)}


def sides(codes: Sequence[str], source: str | None, target: str | None) -> tuple[str, str]:
    """Which of two columns is read and which is written; the first is read where nothing is said."""
    one, two = codes
    swapped = source == two or target == one
    return (two, one) if swapped else (one, two)


@cache
def _scorer(splitter: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=splitter)


def bleu(splitter: str, true: Sequence[Sequence[str]], written: Sequence[str]) -> tuple[float, str]:
    """(corpus BLEU, sacreBLEU's signature), of one or several references each (Post 2018)."""
    scorer = _scorer(splitter)
    return float(scorer.corpus_score(list(written), [list(one) for one in true]).score), str(scorer.get_signature())


def chrf(true: Sequence[Sequence[str]], written: Sequence[str]) -> float:
    """F-score of character n-grams (Popović 2015)."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(written), [list(one) for one in true]).score)
