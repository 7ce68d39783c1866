"""The contract of a task: an objective that also has fields, labels, predictions and metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Examples, Features
from llmkit.data.encoder import Unknown, Written, as_text, finds_controls, within
from llmkit.data.fields import find_fields, no_text
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.data.swapping.doubling import doubled_rows
from llmkit.data.swapping.pairs import Swaps
from llmkit.objectives.base import Judged, Objective, Sets, Setup, Sums
from llmkit.recipe.promises import LEARNING
from llmkit.recipe.registry import name_of
from llmkit.recipe.watching import broken, called, lacking, required
from llmkit.system.errors import DataError, RequestError
from llmkit.system.plural import are, many
from llmkit.tasks.shared import named_metrics
from llmkit.tasks.shared.few import few_shots, rank, set_apart
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
    wanted: ClassVar[Mapping[str, Sequence[str]]] = required("the fields of a row, and their other names: {'text': ()}")
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
    unswapped: ClassVar[str] = ""
    """Why some rows can't have their words swapped, where that is so."""
    tables: ClassVar[bool] = True
    """Whether a text file may be a table, with a row on each line."""
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
        learned = [self.read(reader) for reader in train]
        held: list[list[tuple[Row, Place]]] = []
        readers = train if validation is None or isinstance(validation, int | float) else validation  # of `held`
        if isinstance(validation, int | float):
            learned, held = split(learned, validation, setup.seed, self.together)
        elif validation:
            held = [self.read(reader) for reader in validation]
        for rows, what in ((learned, "data.train"), (held, "data.validation")):
            if (what == "data.train" or validation is not None) and not sum(map(len, rows)):
                raise DataError(f"{what}: no row is left to learn from.")
        notes: list[str] = []
        if setup.shots is not None:
            learned, said = few_shots(learned, setup.shots, setup.seed, self.labels_of)
            notes.append(said)
        learned, told, facts = doubled_rows(learned, held, train, setup.seed, self.swapped, self.together,
                                            self.unswapped)
        notes += told
        cut: list[int] = []
        sets = [[self.encoded(rows, reader, setup, cut) for rows, reader in zip(part, sources, strict=False)]
                for part, sources in ((learned, train), (held, readers))]
        for part, what in zip(sets, ("training", "validation"), strict=True):
            count = sum(len(one.rows) for one in part)
            if part and not count:
                raise DataError(f"data.{what.removesuffix('ing')}: no row is left; all are bad.")
            if part:
                notes.append(many(count, f"{what} row"))
        unknown, written = Unknown(setup.tokenizer), Written(setup.tokenizer, setup.plain)
        for encoded in (one for some in sets for one in some):
            encoded.tell(unknown)
            written.see(encoded.rows)
        notes += [unheard] if (unheard := unknown.note()) else []
        if control := written.note():
            say(train[0], f"{train[0].name}: {control}")
        if setup.prompt is not None:
            notes += setup.prompt.notes()
        if cut:
            notes.append(cut_short(cut, setup.max_length))
        return Sets(sets[0], sets[1], notes, facts)

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
                if not columns:
                    error = reader.of_one_row(error, place)
                if answered and (said := self.unanswered(row, columns, reader)):
                    raise NoLabelsError(f"{error} {said}") from error
                reader.spare(error)
            else:
                yield checked, place
        rest = [name for name in seen if name not in columns.values()]
        reader.used |= columns
        reader.unused |= dict.fromkeys(rest)
        if answered:
            say_unused(rest, reader)

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
        wanted, optional = ({name: others for name, others in names.items() if answered or name not in self.answers}
                            for names in (self.wanted, self.optional))
        columns = find_fields(list(row), wanted, optional, reader)
        say_guessed(columns, reader)
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Raise DataError, with file and line, where a row isn't what the task learns from."""
        for name in self.wanted:
            if name in columns and ((value := row[name]) is None or (isinstance(value, str) and not value.strip())):
                raise DataError(f"{place}: the field {columns[name]!r} is empty.")
        return row

    def settled(self, rows: Sequence[Row], setup: Setup) -> Task:
        """The task with nothing left open that rows, or the model that learned it, tell."""
        return self

    def labels_of(self, row: Row) -> Sequence[str]:
        """What a row counts for where so many rows a label are learned from (`data.shots`); none: rows in all."""
        return ()

    def swapped(self, row: Row, swaps: Swaps) -> Row | None:
        """A row with the words of a list swapped (`data.augment`), also those that are to be written; labels stay.

        None where it has such words and can't be swapped rightly, for the reason `unswapped`.
        """
        kept = () if self.writes else self.answers
        return {name: value if name in kept else within(value, swaps) for name, value in row.items()}

    def together(self, row: Row) -> str:
        """Rows of one such text are held out together: those that are equal, if nothing else is said."""
        return repr(row)

    def encoded(self, rows: list[tuple[Row, Place]], reader: Reader, setup: Setup, cut: list[int]) -> Encoded:
        """Rows of a source and their features; without those of which it is found only now that they are bad."""
        before = len(cut)
        refuse_unlabelled(reader.name, [row[name] for row, _ in rows for name in self.answers if name in row],
                          setup.labels or ())
        try:
            features = self.featured(rows, setup, cut) if rows else []
        except DataError as first:
            if not reader.spares and not isinstance(first, TooLongError):
                reader.spare(first)
            kept, long = [], 0
            for example in rows:
                try:
                    self.featured([example], setup, [])
                except DataError as error:
                    if isinstance(error, TooLongError) and not reader.spares:
                        long += 1
                    else:
                        reader.spare(error)
                else:
                    kept.append(example)
            if long and not kept:
                raise
            if long:
                say(reader, f"{reader.name}: {many(long, 'row')} {are(long)} left out, for the prompt alone is longer "
                            f"than data.max_length, {setup.max_length}; the first: {first}")
            del cut[before:]
            rows, features = kept, self.featured(kept, setup, cut) if kept else []
        return Encoded(features, [row for row, _ in rows])

    def featured(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Rows in the prompt that the run has, where it has one, and then as features."""
        if setup.prompt is not None:
            rows = [(self.around(row, setup.prompt), place) for row, place in rows]
        if setup.plain and finds_controls(setup.tokenizer):
            raise RequestError("data.control_tokens: split: this tokenizer cuts texts into pieces among which its "
                               "control tokens are; use keep, or take them out of the rows.")
        with as_text(setup.tokenizer, setup.plain):
            features = self.encode(rows, setup, cut)
        if len(features) != len(rows) and not all("of" in part for part in features):
            raise broken(called(self, "encode"), f"returned {len(features):,} rows of features for {len(rows):,} rows, "
                         "and doesn't say in `of` which is whose", LEARNING["encode"].words)
        return features

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
        raise lacking(self, "encode", LEARNING)

    def refer(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[list[float]]:
        """What the untuned model says of each row, computed once before the first step."""
        raise lacking(self, "refer", LEARNING)

    def ends(self, setup: Setup) -> list[int]:
        """The tokens that it learns to end an answer with; none where it writes none."""
        return []

    # ---- predictions ----

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """What the model says of each row of a batch, as plain numbers and lists; the batch may have no labels."""
        raise lacking(self, "predict", LEARNING)

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The losses, and the outcome of each row; tasks that get both from one forward pass say how."""
        return self.loss(model, batch, family), self.predict(model, batch, family)

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The prediction of an example, from the outcomes of all its rows, in their order."""
        raise lacking(self, "combine", LEARNING)

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """The metrics of all predictions."""
        for rows, some in judged:
            if len(some) != len(rows):
                raise broken(called(self, "predict"), f"says something of {len(some)} rows where there are {len(rows)}",
                             LEARNING["predict"].words)
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
        plain = [self.plain(prediction, row, setup) for prediction, row in pairs] if setup.metrics else []
        return {**self.metrics(means, pairs), **(named_metrics.scores(setup.metrics, plain) if plain else {})}

    def plain(self, prediction: Prediction, row: Row, setup: Setup) -> tuple[Any, Any]:
        """A prediction and its reference as the evaluate library reads them: numbers, texts, lists of tags."""
        raise RequestError("training.metrics: metrics of the evaluate library don't read what this task predicts.")

    def combined(self, part: Encoded, outcomes: Sequence[Any], setup: Setup) -> list[Prediction]:
        """One prediction an example, from one outcome a row."""
        own: list[list[Any]] = [[] for _ in part.rows]
        for owner, outcome in zip(part.owners, outcomes, strict=True):
            own[owner].append(outcome)
        return [self.combine(outcomes, row, setup) for outcomes, row in zip(own, part.rows, strict=True)]

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """Figures of an evaluation, from mean losses and each prediction beside its example."""
        return dict(means)

    def seen(self, rows: Sequence[Row], setup: Setup) -> Sequence[Row]:
        """Rows as a model sees them, cut to its length: what floors are told of."""
        return rows

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """What is reached on the held-out examples without a language model, so that no figure stands alone."""
        return {}


class Encoded:
    """Examples that were turned into features once; nothing about them is chance."""

    def __init__(self, features: Sequence[Features], rows: Sequence[Row]) -> None:
        self.rows = rows
        """The examples, with all their fields."""
        self.owners = [int(row["of"][0]) if "of" in row else i for i, row in enumerate(features)]
        """Which example each row of features is of."""
        self.features = [{name: value for name, value in row.items() if name != "of"} for row in features]

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
    is_, was = ("is", "was") if len(cut) == 1 else ("are", "were")
    return (f"{many(len(cut), 'row')} {is_} longer than {max_length} tokens and {was} cut ({many(sum(cut), 'token')} "
            "left out)")


def only_texts(row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
    """The row; DataError, with file and line, where a field of it is no text."""
    for name, value in row.items():
        if not isinstance(value, str):
            raise no_text(name, columns[name], value, place)
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


def split(
    sources: Sequence[list[tuple[Row, Place]]], validation: float, seed: int, key: Callable[[Row], str] = repr,
) -> tuple[list[list[tuple[Row, Place]]], list[list[tuple[Row, Place]]]]:
    """(training, validation) of each source: a share is drawn by the seed, a whole number of rows is always the same.

    Where chance would leave a side without rows, the share is that number of rows, 1 at least.

    DataError where one side would be empty.
    """
    if isinstance(validation, int):
        learned, held = set_apart(sources, validation, key)
    else:
        parts = [hold_out(rows, validation, seed, key) for rows in sources]
        learned, held = [part[0] for part in parts], [part[1] for part in parts]
        rows = sum(map(len, sources))
        if rows > 1 and not (any(learned) and any(held)):  # of few rows, chance gives a share to nobody
            learned, held = set_apart(sources, min(rows - 1, max(1, round(validation * rows))), key)
    if not any(learned) or not any(held):
        if len({key(row) for part in sources for row, _ in part}) == 1:
            raise DataError(f"data.validation: all {sum(map(len, sources))} rows are equal, and equal rows stay on one "
                            "side; give validation sources of its own.")
        rows = sum(map(len, sources))
        few = next((n for n in (rows // 10, 1) if n and all(map(any, set_apart(sources, n, key)))), None)
        else_ = ("give validation sources of its own." if few is None else
                 f"give validation sources of its own, or fewer rows: --set data.validation={few}.")
        if isinstance(validation, int):
            raise DataError(f"data.validation: {validation:,} of {many(rows, 'row')} leaves one side empty; {else_}")
        raise DataError(f"data.validation: a share of {validation} of {many(rows, 'row')} leaves one side empty; "
                        f"{else_}")
    return learned, held


def hold_out(
    rows: list[tuple[Row, Place]], share: float, seed: int, key: Callable[[Row], str] = repr,
) -> tuple[list[tuple[Row, Place]], list[tuple[Row, Place]]]:
    """(training, validation), drawn by a hash of seed and content: equal rows go together; one side may be empty."""
    held: list[tuple[Row, Place]] = []
    learned: list[tuple[Row, Place]] = []
    for row in rows:
        (held if rank(key(row[0]), seed) < share * 2**64 else learned).append(row)
    return learned, held
