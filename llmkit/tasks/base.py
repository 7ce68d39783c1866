"""The contract of a task: an objective that also has fields, labels, predictions and metrics."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Examples, Features
from llmkit.data.encoder import Unknown
from llmkit.data.fields import find_fields
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.objectives.base import Judged, Objective, Sets, Setup, Sums
from llmkit.recipe.registry import name_of
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.shared import named_metrics
from llmkit.tasks.shared.labels import NoLabelsError, is_blank, no_labels, refuse_unlabelled

if TYPE_CHECKING:
    from torch import nn

Row = dict[str, Any]
"""The fields of an example by their names in the task, whatever their columns are called in the file."""
Prediction = dict[str, Any]
"""What a model says of an example, as JSON has it: {"label": "positive", "score": 0.98}."""
NUMBER = re.compile(r"|.*\b_?(id|ids|idx|ind|index|guid|uid|uuid)|.*_(id|idx)|unnamed: \d+|__index_level_\d+__", re.I)
"""Columns that say which row it is, and nothing of what is in it."""
MOST_NAMED = 10
"""Columns that are named where there are more."""
Floors = dict[str, dict[str, float]]
"""By what needs no model (the most frequent label, TF-IDF with logistic regression): the metrics that it reaches."""


class TooLongError(DataError):
    """A row leaves no room for what is learned of it; where others are left, it is left out and counted."""


class Task(Objective):
    """What a model learns from labelled examples, and says of others.

    From rows to figures: `read` a file's rows, `encode` them as features, `predict` one outcome for each row of a
    batch, `combine` the outcomes to one prediction an example, `metrics` of predictions beside the examples.
    """

    packings: ClassVar[tuple[str, ...]] = ("none",)
    wanted: ClassVar[Mapping[str, Sequence[str]]]
    """Fields that every row has, and other names that they go by."""
    answers: ClassVar[tuple[str, ...]] = ()
    """Of these and the optional ones, what is predicted: rows to predict needn't have it."""
    optional: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Fields that a row may have."""
    prompted: ClassVar[str | None] = None
    """The field that a prompt goes around; None where nothing can stand around what is read."""
    verb: ClassVar[str] = ""
    """The command that uses a run of it: classify, summarize, chat …; "" where only `llmkit predict` does."""
    writes: ClassVar[bool] = False
    """Whether its answers are texts that the model writes."""
    varies: ClassVar[bool] = False
    """Whether a row of JSON may have optional fields that the first one lacks."""
    example: ClassVar[Sequence[Row]] = ()
    """A few rows as a file has them, JSON lines: what the docs show, and what a test of any task learns from."""

    @property
    def reference(self) -> bool:
        """Whether each row needs what the untuned model says of it (`refer`), as its field `reference`."""
        return False

    @property
    def languages(self) -> tuple[str, str]:
        """The codes of the languages that are (read, written); "" where nothing is said."""
        return "", ""

    def turned_round(self) -> Task:
        """The task that reads what it wrote and writes what it read; RequestError where it writes no text."""
        raise RequestError(f"prompting: reverse asks for a text, and {name_of(self)} writes none; use it with "
                           "translation, summarization or instruction.")

    def limited(self, max_new_tokens: int) -> Task:
        """The task with written answers of at most so many tokens."""
        return self

    def by_words(self) -> Task | None:
        """The task as a language model does it that only says how likely a label's words are; None where it can't."""
        return None

    def texts(self, reader: Reader) -> Iterator[str]:
        """What a tokenizer is trained on: every field of text of every row."""
        return (row[name] for row, _ in self.read(reader) for name in row if isinstance(row[name], str))

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Read all rows, hold some out, and turn each into features."""
        learned, held = [self.read(reader) for reader in train], []
        readers = train if validation is None or isinstance(validation, float) else validation  # of those held out
        if isinstance(validation, float):
            parts = [hold_out(rows, validation, setup.seed, self.together) for rows in learned]
            learned, held = [part[0] for part in parts], [part[1] for part in parts]
            if not any(learned) or not any(held):
                raise DataError(f"data.validation: a share of {validation} of {sum(len(a) + len(b) for a, b in parts)} "
                                "rows leaves one side empty; give validation sources of its own, or a larger share.")
        elif validation:
            held = [self.read(reader) for reader in validation]
        for rows, what in ((learned, "data.train"), (held, "data.validation")):
            if (what == "data.train" or validation is not None) and not sum(map(len, rows)):
                raise DataError(f"{what}: no row is left to learn from.")
        cut: list[int] = []
        sets = [[self.encoded(rows, reader, setup, cut) for rows, reader in zip(part, sources, strict=False)]
                for part, sources in ((learned, train), (held, readers))]
        notes: list[str] = []
        for part, what in zip(sets, ("training", "validation"), strict=True):
            count = sum(len(one.rows) for one in part)
            if part and not count:
                raise DataError(f"data.{what.removesuffix('ing')}: no row is left; all are bad.")
            if part:
                notes.append(f"{count:,} {what} rows")
        unknown = Unknown(setup.tokenizer)
        for encoded in (one for some in sets for one in some):
            encoded.tell(unknown)
        notes += [said] if (said := unknown.note()) else []
        if setup.prompt is not None:
            notes += setup.prompt.notes()
        if cut:
            notes.append(cut_short(cut, setup.max_length))
        return Sets(sets[0], sets[1], notes)

    def read(self, reader: Reader) -> list[tuple[Row, Place]]:
        """The rows of a source, each with the fields of this task and nothing else."""
        return list(self.stream(reader))

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """Checked rows of a source, one after the other; without their answers where they are to be predicted."""
        columns: dict[str, str | int] = {}
        seen: dict[str | int, None] = {}
        for row, place in self.unfolded(reader, answered):
            try:
                if not columns:
                    columns = self.columns(row, reader, answered)
                elif self.varies and not row.keys() <= seen.keys():
                    columns |= self.later(row, columns, reader, answered)
                seen.update(dict.fromkeys(row))
                fields = {name: row.get(column) for name, column in columns.items()}  # type: ignore[arg-type]
                checked = self.check(fields, columns, place)
            except DataError as error:
                if reader.spares and not columns:
                    error = reader.of_one_row(error, place)
                if answered and (said := self.unanswered(row, columns, reader)):
                    raise NoLabelsError(f"{error} {said}") from error
                reader.spare(error)
            else:
                yield checked, place
        if answered:
            say_unused([name for name in seen if name not in columns.values()], reader)

    def unfolded(self, reader: Reader, answered: bool) -> Rows:
        """The rows of a source, each whole and flat: where one is nested, or lies across several, a task says how."""
        return reader.rows()

    def unanswered(self, row: Mapping[Any, Any], columns: Mapping[str, str | int], reader: Reader) -> str:
        """What to say of a bad row where no row of its source has an answer, as in a test set; "" where one has."""
        names: list[Any] = [column for name, column in columns.items() if name in self.answers]
        if not names or not all(is_blank(row.get(name)) for name in names):
            return ""
        count = 0
        for other, _ in self.unfolded(replace(reader, bad={}, notes=[]), True):
            if not all(is_blank(other.get(name)) for name in names):
                return ""
            count += 1
        said = no_labels(count, row.get(names[0]))
        return said[0].upper() + said[1:] if count > 1 else ""

    def later(
        self, row: Mapping[Any, Any], columns: Mapping[str, str | int], reader: Reader, answered: bool,
    ) -> dict[str, str | int]:
        """The columns of optional fields that the first row of a file lacks and a later one has."""
        free = [name for name in row if name not in columns.values()]
        open_ones = {name: others for name, others in self.optional.items()
                     if name not in columns and (answered or name not in self.answers)}
        return find_fields(free, {}, open_ones, reader)

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """Which column of a file each field is; those of the answers only where rows have some."""
        wanted, optional = ({name: others for name, others in some.items() if answered or name not in self.answers}
                            for some in (self.wanted, self.optional))
        columns = find_fields(list(row), wanted, optional, reader)
        say_guessed(columns, reader)
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Raise DataError, with file and line, where a row isn't what the task learns from."""
        for name in self.wanted:
            if name in columns and ((value := row[name]) is None or (isinstance(value, str) and not value.strip())):
                raise DataError(f"{place}: the field {columns[name]!r} is empty.")
        return row

    def together(self, row: Row) -> str:
        """Rows of one such text are held out together: those that are equal, if nothing else is said."""
        return repr(row)

    def encoded(self, rows: list[tuple[Row, Place]], reader: Reader, setup: Setup, cut: list[int]) -> Encoded:
        """Rows of a source and their features; without those of which it is found only now that they are bad."""
        before = len(cut)
        refuse_unlabelled(reader.name, [row[name] for row, _ in rows for name in self.answers if name in row],
                          setup.labels or ())
        try:
            found = self.featured(rows, setup, cut) if rows else []
        except DataError as first:
            if not reader.spares and not isinstance(first, TooLongError):
                reader.spare(first)
            kept, long = [], 0
            for one in rows:
                try:
                    self.featured([one], setup, [])
                except DataError as error:
                    if isinstance(error, TooLongError) and not reader.spares:
                        long += 1
                    else:
                        reader.spare(error)
                else:
                    kept.append(one)
            if long and not kept:
                raise
            if long:
                say(reader, f"{reader.name}: {long:,} rows are left out, for their prompt alone is longer than "
                            f"data.max_length, {setup.max_length}; the first: {first}")
            del cut[before:]
            rows, found = kept, self.featured(kept, setup, cut) if kept else []
        return Encoded(found, [row for row, _ in rows])

    def featured(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Rows in the prompt that the run has, where it has one, and then as features."""
        if setup.prompt is not None:
            rows = [(self.around(row, setup.prompt), place) for row, place in rows]
        return self.encode(rows, setup, cut)

    def around(self, row: Row, prompt: Callable[[Mapping[str, str]], str]) -> Row:
        """A row whose text stands in a prompt, with the second text of a pair in it."""
        assert self.prompted is not None  # the recipe was checked for it
        texts = {"text": row[self.prompted], **({"text_pair": row["text_pair"]} if "text_pair" in row else {})}
        return {**{name: value for name, value in row.items() if name not in texts}, self.prompted: prompt(texts)}

    def room(self, setup: Setup) -> int:
        """Tokens that a text may have, its prompt included."""
        return setup.max_length

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Rows to features; the number of tokens that each row lost to max_length goes to `cut`.

        One a row, or several (parts of a long text), which then say in `of`, a list of one number, whose they are. Rows
        without answers, which are to be predicted, get features without labels.
        """
        raise NotImplementedError

    def refer(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[list[float]]:
        """What the untuned model says of each row, computed once before the first step."""
        raise NotImplementedError

    def ends(self, setup: Setup) -> list[int]:
        """The tokens that it learns to end an answer with; none where it writes none."""
        return []

    # ---- predictions ----

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """What the model says of each row of a batch, as plain numbers and lists; the batch may have no labels."""
        raise NotImplementedError

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The losses, and the outcome of each row; tasks that get both from one forward pass say how."""
        return self.loss(model, batch, family), self.predict(model, batch, family)

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The prediction of an example, from the outcomes of all its rows, in their order."""
        raise NotImplementedError

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """The metrics of all predictions."""
        outcomes = {row: outcome for rows, some in judged for row, outcome in zip(rows, some, strict=True)}
        pairs: list[tuple[Prediction, Row]] = []
        first = 0
        for part in sets:
            assert isinstance(part, Encoded)
            pairs += zip(self.combined(part, [outcomes[first + i] for i in range(len(part))], setup), part.rows)
            first += len(part)
        return self.measured(means, pairs, setup)

    def measured(
        self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]], setup: Setup,
    ) -> dict[str, float]:
        """The task's own metrics, and the others that are wanted."""
        plain = [self.plain(said, row, setup) for said, row in pairs] if setup.metrics else []
        return {**self.metrics(means, pairs), **(named_metrics.scores(setup.metrics, plain) if plain else {})}

    def plain(self, said: Prediction, row: Row, setup: Setup) -> tuple[Any, Any]:
        """A prediction and its reference as the evaluate library reads them: numbers, texts, lists of tags."""
        raise RequestError("training.metrics: metrics of the evaluate library don't read what this task predicts.")

    def combined(self, part: Encoded, outcomes: Sequence[Any], setup: Setup) -> list[Prediction]:
        """One prediction an example, from one outcome a row."""
        own: list[list[Any]] = [[] for _ in part.rows]
        for owner, outcome in zip(part.owners, outcomes, strict=True):
            own[owner].append(outcome)
        return [self.combine(some, row, setup) for some, row in zip(own, part.rows, strict=True)]

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """Figures of an evaluation, from mean losses and each prediction beside its example."""
        return dict(means)

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """What is reached on the held-out examples without a language model, so that no figure stands alone."""
        return {}


class Encoded:
    """Examples that were turned into features once; nothing about them is chance."""

    def __init__(self, features: Sequence[Features], rows: Sequence[Row]) -> None:
        self.rows = rows
        """The examples, with all their fields."""
        self.owners = [int(some["of"][0]) if "of" in some else i for i, some in enumerate(features)]
        """Which example each row of features is of."""
        self.features = [{name: value for name, value in some.items() if name != "of"} for some in features]

    def tell(self, unknown: Unknown) -> None:
        """Have what the tokenizer doesn't know in these rows counted."""
        for features, owner in zip(self.features, self.owners, strict=True):
            for name, ids in features.items():
                if name.endswith("input_ids"):
                    unknown.see(ids, self.rows[owner])

    def __len__(self) -> int:
        return len(self.features)

    def draw(self, row: int, rng: np.random.Generator) -> Features:
        """The features of a row."""
        return self.features[row]

    def length(self, row: int) -> int:
        """Positions of a row, so that rows of one length can go together."""
        return len(self.features[row]["input_ids"])


def cut_short(cut: Sequence[int], max_length: int) -> str:
    """Say how many rows lost something, from the number of tokens that each lost."""
    return f"{len(cut):,} rows are longer than {max_length} tokens and were cut ({sum(cut):,} tokens left out)"


def only_texts(row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
    """The row; DataError, with file and line, where a field of it is no text."""
    for name, value in row.items():
        if not isinstance(value, str):
            raise DataError(f"{place}: the field {columns[name]!r} is no text: {value!r}.")
    return row


def say_guessed(columns: Mapping[str, str | int], reader: Reader) -> None:
    """Note which columns were taken for a field of another name, though no recipe says so."""
    guessed = [f"{name} is the column {column!r}" for name, column in columns.items()
               if name != column and name not in reader.source.fields]
    if guessed:
        say(reader, f"{reader.name}: {', '.join(guessed)} (data.train's `fields` says otherwise)")


def say_unused(names: Sequence[str | int], reader: Reader) -> None:
    """Note which columns nothing is learned from; what only numbers or names a row isn't meant."""
    unused = [str(name) for name in names if not NUMBER.fullmatch(str(name).strip())]
    if unused:
        more = f" and {len(unused) - MOST_NAMED:,} more" if len(unused) > MOST_NAMED else ""
        say(reader, f"{reader.name}: nothing is learned from the columns {', '.join(unused[:MOST_NAMED])}{more}"
                    if len(unused) > 1 else f"{reader.name}: nothing is learned from the column {unused[0]}")


def say(reader: Reader, note: str) -> None:
    """Have something said of a source, once."""
    if note not in reader.notes:
        reader.notes.append(note)


def hold_out(
    rows: list[tuple[Row, Place]], share: float, seed: int, key: Callable[[Row], str] = repr,
) -> tuple[list[tuple[Row, Place]], list[tuple[Row, Place]]]:
    """(training, validation), drawn by a hash of seed and content: equal rows go together; one side may be empty."""
    held: list[tuple[Row, Place]] = []
    learned: list[tuple[Row, Place]] = []
    for row in rows:
        digest = hashlib.blake2b(f"{seed}\n{key(row[0])}".encode(errors="surrogatepass"), digest_size=8).digest()
        (held if int.from_bytes(digest, "little") < share * 2**64 else learned).append(row)
    return learned, held
