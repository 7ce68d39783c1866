"""Measure a trained model: perplexity on text, a task's metrics on rows."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import models, recipe
from llmkit.data.known.sets import usual_split
from llmkit.data.memory import IN_MEMORY, Given, memory_reader
from llmkit.data.sources import Place, Reader, open_source
from llmkit.data.swapping.doubling import doubled_rows
from llmkit.inference.labelling import Labeller, known_labels, measured
from llmkit.inference.scoring import KINDS, Scorer
from llmkit.models import Base, Opened
from llmkit.models.changing.rounding import INT8, check_rounds
from llmkit.models.families import family_for, family_named, file_for
from llmkit.models.run import recipe_of
from llmkit.objectives.base import Sets, Setup
from llmkit.objectives.shared import text_head
from llmkit.planning import choices
from llmkit.planning.choices import Precision
from llmkit.planning.settle import reads_tables, swapping, with_prompt
from llmkit.prompting.base import Kit, Prompting
from llmkit.recipe import Source, registry
from llmkit.recipe.seams import Answering, Learning
from llmkit.system.errors import DataError, RequestError, nearest
from llmkit.system.plural import are, many
from llmkit.tasks.base import Encoded, Floors, Row, Task, split
from llmkit.tasks.classification import Classification
from llmkit.tasks.shared import floors as floored
from llmkit.tasks.shared.few import few_shots
from llmkit.tasks.shared.figures import FLOOR_ROWS
from llmkit.tasks.shared.labels import refuse_unlabelled

if TYPE_CHECKING:

    from llmkit.backbones.base import Family
    from llmkit.training.learner import Learner

log = logging.getLogger("llmkit")

WAY_OUT = "--on-bad-row skip leaves such rows out."
"""What is added to an error about a row."""
IN_A_RECIPE = re.compile(r"\{source: [^{}]*, encoding: ([\w-]+)\}")
"""How a recipe says the encoding of a source."""
HEADS = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForQuestionAnswering",
         "AutoModelForMultipleChoice")
"""Auto classes of models that do one task, by whose head they are known."""
ROWS = "rows"
"""What rows in memory are called in errors and answers."""
Model = str | Path | Opened
"""A run, a folder, a hub id or a catalogue name; or a model that is open."""


def evaluate(
    model: Model, data: str | Path | Given, *, target: str | Path | None = None, task: str | None = None,
    objective: str | None = None, max_length: int | None = None, batch_size: int = 16, prompt: Prompting | None = None,
    on_bad_row: str = "error", encoding: str | None = None, fields: Mapping[str, str | int] | None = None,
    precision: str = "auto",
) -> dict[str, Any]:
    """Evaluate a run, a folder, a hub id, a catalogue model or an opened model on a file; all of the file counts.

    data         a file, or rows in memory: a list of dicts or texts, a `datasets.Dataset`, a function that yields them
    target       of parallel text, the file whose lines are the translations of those of `data`
    on_bad_row   error, or skip: a bad row is left out, and counted in the result's `bad_rows`
    encoding     of the file; where nothing is said, that of the rows that a run learned from, else utf-8
    fields       which column of the file is meant by each field: {"text": "review"}; else as in the rows of the run
    batch_size   rows at once; of short ones more, as many as have some 2,000 tokens
    precision    fp32, bf16 or fp16; `auto`: what a run learned in, where this machine is fast in it, else fp32; int8:
                 on a CPU, weights of 8 bits, and fp32

    A run is measured by the objective or task that it learned, in rows like those it learned from; another model by the
    one its head is for, on the documents one after the other, in parts of its positions (at most 512, or `max_length`).
    With a prompt, a language model says labels by their words, and any other model reads every text in it.
    Returns {"metrics": {"loss": …}, "floors", "model", "data", "notes": [what must not be overlooked], …}. A program's
    own Accelerator stays as it is.
    """
    from llmkit.training.spread.processes import apart

    if prompt is not None and target is None and (words := asks_for_words(model, task)) is not None:
        return by_prompt(model, data, prompt, words, on_bad_row, encoding, fields, precision == INT8)
    leaves_out(on_bad_row)
    only_of_files(encoding, data)
    with apart(), left_as_it_is(model), said_by_option():
        ready = make_ready(model, task=task, objective=objective, max_length=max_length, prompt=prompt,
                           eight_bits=precision == INT8)
        reader = ready.reader(data, target, on_bad_row, encoding, fields)
        sets = ready.learner.objective.prepare([reader], None, ready.setup)
        for note in reader.notes:
            log.info(note)
        numbers = ready.numbers(precision)
        metrics, answers = _measured(ready, sets, model, numbers, batch_size)
    chosen = ready.learner.objective
    floors, learned = _floors(chosen, ready.learned, sets, ready.setup)
    figures = real(metrics)
    return {"metrics": figures, "floors": floors, "model": name_of(model),
            "data": data_name(data), "measured_by": registry.name_of(chosen), "max_length": ready.setup.max_length,
            "precision": precision if precision == INT8 else numbers, "rows": sum(map(len, sets.train)),
            **left_out(reader), **judged(figures, floors, learned, answers)}


def judged(
    figures: Mapping[str, float | None], floors: Floors, learned: bool, answers: Mapping[str, Any],
) -> dict[str, Any]:
    """{"floors_from", "notes"}: which rows the floors are learned from, and what must not be overlooked, in words."""
    same = answers.get("one_answer")
    return {"floors_from": "training" if learned else "these rows",
            "notes": [*([same] if same else []), *floored.below(figures, floors, learned)]}


def real(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Figures, and None in the place of one that is no number, said once: a metric that isn't defined for these rows.

    A correlation with what never changes is none. JSON has no NaN.
    """
    for name in (name for name, value in metrics.items() if not math.isfinite(value)):
        log.warning("%s isn't defined for these rows", name)
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def leaves_out(on_bad_row: str) -> bool:
    """Whether bad rows are left out: skip; RequestError for a word that is neither this nor error."""
    if on_bad_row not in ("error", "skip"):
        raise RequestError(f"--on-bad-row {on_bad_row}: is neither error nor skip."
                           f"{nearest(on_bad_row, ('error', 'skip'))}")
    return on_bad_row == "skip"


def only_of_files(encoding: str | None, data: object) -> None:
    """RequestError where an encoding is said of rows, which have none."""
    if encoding is not None and not isinstance(data, str | Path):
        raise RequestError(f"encoding: {encoding} is for a file; rows in memory are text already.")


@contextmanager
def said_by_option() -> Iterator[None]:
    """Name the option in errors that say what a recipe's source would say, for there is no recipe."""
    try:
        yield
    except DataError as error:
        said = IN_A_RECIPE.sub(r"--encoding \1", str(error)).replace(" in the recipe: --set data.train=",
                                                                     ": --set data.train=")
        if said == str(error):
            raise
        raise type(error)(said) from error


def left_out(reader: Reader) -> dict[str, int]:
    """{"bad_rows": …}, said once, where bad rows are left out; nothing elsewhere."""
    if reader.bad:
        log.warning("%s %s left out; the first: %s", many(len(reader.bad), "bad row"), are(len(reader.bad)),
                    next(iter(reader.bad)))
    return {"bad_rows": len(reader.bad)} if reader.spares else {}


@contextmanager
def left_as_it_is(model: Model) -> Iterator[None]:
    """Bring an opened model back to its device and its mode, training or not, in the end."""
    if not isinstance(model, Opened):
        yield
        return
    network: Any = model.model
    device, training = network.device, network.training
    try:
        yield
    finally:
        network.to(device).train(training)


def _measured(
    ready: Ready, sets: Sets, model: Model, numbers: Precision, size: int,
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """(the metrics over all rows, `size` of them at once; a count of the answers)."""
    from llmkit.training.evaluate import Room, refer
    from llmkit.training.evaluate import evaluate as all_figures
    from llmkit.training.spread.processes import accelerate

    accelerator = accelerate(numbers, Path())
    if isinstance(ready.learner.objective, Task) and ready.learner.objective.reference:
        refer(accelerator, untuned(ready, model).to(accelerator.device), sets.train, ready.setup, size)
    answers: list[dict[str, Any]] = []
    with choices.computing_in(numbers, accelerator.device.type):
        figures = all_figures(accelerator, ready.learner.to(accelerator.device), sets.train, ready.setup,
                              Room(size, choices.at_once()), answers=answers)
    return figures, answers[-1] if answers else {}


@dataclass(frozen=True)
class Ready:
    """A model opened for what it learned."""

    learner: Learner
    setup: Setup
    learned: recipe.Recipe | None
    """The recipe of the run that it is from."""

    def numbers(self, precision: str) -> Precision:
        """The numbers that it computes in: `auto` is what the run learned in, where that is what is fast here.

        Beside weights of 8 bits it is fp32.
        """
        if precision == INT8:
            return "fp32"
        return choices.answering_in(precision, self.learner.family, self.learned)

    def reader(
        self, data: str | Path | Given, target: str | Path | None = None, on_bad_row: str = "error",
        encoding: str | None = None, fields: Mapping[str, str | int] | None = None,
    ) -> Reader:
        """A file, or rows in memory under the names that fields had in the rows that it learned from."""
        if isinstance(data, str | Path):
            return self.source(str(data), target=target, on_bad_row=on_bad_row, encoding=encoding, fields=fields)
        names = fields or ({} if self.learned is None else self.learned.data.train[0].fields)
        return memory_reader(data, ROWS, {name: field for name, field in names.items() if isinstance(field, str)},
                             leaves_out(on_bad_row), WAY_OUT)

    def source(
        self, data: str, document: str = "auto", target: str | Path | None = None, on_bad_row: str | None = None,
        encoding: str | None = None, fields: Mapping[str, str | int] | None = None,
    ) -> Reader:
        """A file, read as the run read its own: the same names of fields, the same encoding; `target` beside it.

        `on_bad_row` is None where nobody could say it, `encoding` and `fields` where nobody did.
        """
        spares, way_out = (False, "") if on_bad_row is None else (leaves_out(on_bad_row), WAY_OUT)
        beside, tables = None if target is None else str(target), reads_tables(self.learner.objective)
        if (split := usual_split(data)) is not None:
            log.info("%s: its split %s", data, split)
        split = split or "train"
        if self.learned is None:
            own = Source(data, beside, fields=dict(fields or {}), encoding=encoding or "utf-8", split=split)
            return open_source(own, document, spares, way_out, tables=tables)
        first = self.learned.data.train[0]
        same = Path(data).suffix in {Path(source.source).suffix for source in self.learned.data.train}
        names = dict(fields) if fields is not None else first.fields if same else {}
        own = Source(data, beside, fields=names, encoding=encoding or first.encoding, split=split)
        return open_source(own, document, spares, way_out, tables=tables)


def make_ready(
    model: Model, *, task: str | Answering | None = None, objective: str | None = None,
    max_length: int | None = None, usual_length: int = 512, dtype: str = "float32", prompt: Prompting | None = None,
    eight_bits: bool = False,
) -> Ready:
    """Open a run, a folder, a hub id or a catalogue model for its task or objective, or for the one that is named.

    model          may be open already, with the head that is needed
    usual_length   positions that are used at most where neither `max_length` nor a run's recipe says how many
    prompt         stands in the place of the run's own
    eight_bits     whether the weights of its linear layers are rounded to bytes; not of a model that is open already

    RequestError where it has no weights for the task, fewer positions than `max_length`, or no text that a prompt could
    go around.
    """
    from llmkit.system import report
    from llmkit.training.learner import Learner

    report.quiet_libraries()
    models.check_model(model)
    if eight_bits:
        check_rounds(f"precision {INT8}", model)
    learned = recipe_of(place_of(model))
    named = _named(task, objective)
    source = model if isinstance(model, Opened) else Base.open(model)
    name, family = _family(source, learned)
    chosen = named or (_usual(source, family) if learned is None else learned.learning)
    if learned is None and isinstance(chosen, Classification) and chosen.pooling == "auto" and averages(source):
        chosen = replace(chosen, pooling="mean")
    recipe.fit_together(chosen, name, family)
    own = None if learned is None or type(chosen) is not type(learned.learning) else learned.prompting
    chosen = prompted(chosen, prompt) if prompt is not None else chosen
    opened = _with_head(source, chosen, family, dtype, eight_bits)
    length = _length(opened, family, learned, max_length, usual_length)
    whole = chosen.assemble(opened.model, family, opened.tokenizer,
                            opened.folder.parent if learned is not None else None)
    setup = _setup(opened, chosen, family, learned, length)
    learner = Learner(whole, chosen, family).eval()  # a model that was open comes back as it was
    return Ready(learner, with_prompt(setup, prompt or own, chosen), learned)


def _named(task: str | Answering | None, objective: str | None) -> Learning | None:
    """The task or objective that is asked for by name."""
    if task is not None and not isinstance(task, str):
        return task
    if task is None and objective is None:
        return None
    return registry.find("tasks", task)() if task is not None else registry.find("objectives", str(objective))()


def _family(source: Base | Opened, learned: recipe.Recipe | None) -> tuple[str, type[Family]]:
    """(name, family) of a model: its run's; of another, by its config."""
    if learned is not None:
        name = str(learned.backbone.family)
        base = None if name != "auto" else source if isinstance(source, Base) else Base.open(source.folder)
        return name, family_named(name, base)
    family = family_for(source.model.config) if isinstance(source, Opened) else source.family
    return file_for(family.model_type) or "auto", family


def _usual(source: Base | Opened, family: type[Family]) -> Learning:
    """What a model that isn't a run is measured by: the task whose head it has, or language."""
    kind = source.kind if isinstance(source, Opened) else models.kind_of(source)
    kind = text_head.WHOLE if averages(source) else kind
    for task in registry.names("tasks") if kind in HEADS else ():
        made: Learning = registry.find("tasks", task)()
        if made.head_for(family) == kind:
            log.info("measured by %s, for which its head is; --task names another", task)
            return made
    name = {"decoder": "causal_lm", "encoder": "masked_lm", "encoder-decoder": "span_corruption",
            "permuted": "permuted_lm"}[family.shape]
    # not every decoder was taught to end, and an end is no text
    options = {"add_eos_token": False} if name == "causal_lm" else {}
    return registry.find("objectives", name)(**options)


def averages(source: Base | Opened) -> bool:
    """Whether a model says labels of a text by the mean over its tokens, as files beside it say (`task.pooling`)."""
    kind = source.kind if isinstance(source, Opened) else models.kind_of(source)
    return text_head.averages(kind, source.folder)


def _with_head(source: Base | Opened, chosen: Learning, family: type[Family], dtype: str, eight_bits: bool) -> Opened:
    """The model under the head of what it is measured by; RequestError where it has no weights for it."""
    head = chosen.head_for(family)
    if isinstance(source, Opened):
        if source.kind != head:
            raise RequestError(f"{source.folder}: is open as {source.kind}, and {registry.name_of(chosen)} needs "
                               f"{head}; give its folder.")
        return source
    opened = models.open_model(source, head, dtype=dtype, eight_bits=eight_bits)
    if opened.missing:
        raise RequestError(f"{source.name}: no weights for {opened.missing[0]}, which {registry.name_of(chosen)} "
                           "needs; train it for that first.")
    return opened


def _length(
    opened: Opened, family: type[Family], learned: recipe.Recipe | None, wanted: int | None, usual: int,
) -> int:
    """Tokens of a row; RequestError where the model has fewer positions than were asked for."""
    limit = family.position_limit(opened.model.config)
    virtual = 0 if learned is None else learned.tuning.virtual_tokens
    most = min(usual, (limit or 512) - virtual)
    length = wanted or (learned.data.max_length if learned is not None else None) or most
    if limit is not None and length + virtual > limit:
        raise RequestError(f"--max-length {length}: the model has {limit - virtual} positions.")
    return length


def _setup(
    opened: Opened, chosen: Learning, family: type[Family], learned: recipe.Recipe | None, length: int,
) -> Setup:
    """How rows are made for it: as the run made its own."""
    plain = learned is not None and learned.data.control_tokens == "split"
    if not isinstance(chosen, Task):
        return Setup(opened.tokenizer, family, length, "blocks" if learned is None else learned.data.packing, 0,
                     plain=plain)
    names: dict[Any, str] = dict(opened.model.config.id2label or {})
    labels = tuple(names[number] for number in sorted(names))
    others = tuple(learned.training.metrics) if learned is not None else ()
    return Setup(opened.tokenizer, family, length, chosen.packings[-1], 0, labels, metrics=others,
                 problem=opened.model.config.problem_type, plain=plain)


def prompted(chosen: Learning, prompt: Prompting) -> Learning:
    """A task that reads its texts in a prompt; RequestError where it can't."""
    if not isinstance(chosen, Task) or chosen.prompted is None:
        raise RequestError(f"--prompt goes around the texts of a task; {registry.name_of(chosen)} reads none that it "
                           "could stand around. Name one by --task: classification, summarization …")
    if prompt.untrained:
        raise RequestError(f"--prompt: {prompt.untrained}. Here {registry.name_of(chosen)} is done by the model's own "
                           "head, not by comparing words.")
    return chosen.turned_round() if prompt.turns else chosen


def asks_for_words(model: Model, task: str | None) -> Answering | None:
    """The task whose labels a model that learned no task is to say by their words; None where it isn't asked to."""
    labelling = None if task is None else registry.find("tasks", task)().by_words()
    learned = recipe_of(place_of(model))
    if labelling is None or (learned is not None and learned.task is not None):
        return None
    return labelling if (model.kind if isinstance(model, Opened) else models.kind_of(model)) in KINDS else None


def by_prompt(
    model: Model, data: str | Path | Given, mode: Prompting, task: Answering, on_bad_row: str = "error",
    encoding: str | None = None, fields: Mapping[str, str | int] | None = None, eight_bits: bool = False,
) -> dict[str, Any]:
    """Evaluate a language model as a classifier that nobody trained, on a file, or rows, of texts and labels."""
    skips = leaves_out(on_bad_row)
    only_of_files(encoding, data)
    with said_by_option():
        own = Source(str(data), fields=dict(fields or {}), encoding=encoding or "utf-8")
        reader = (open_source(own, spares=skips, way_out=WAY_OUT, tables=True)
                  if isinstance(data, str | Path) else memory_reader(data, ROWS, spares=skips, way_out=WAY_OUT))
        rows = [row for row, _ in task.read(reader)]
    refuse_unlabelled(reader.name, [row["label"] for row in rows])
    labels = known_labels(mode, rows)
    mode.words(labels)
    mode.check(Kit(None))
    labeller = Labeller(open_scorer(model, eight_bits), mode, labels)
    metrics = measured(labeller, task, rows)
    for note in (*reader.notes, *labeller.kit.notes(mode.wants)):
        log.info("%s", note)
    floors = task.floors([], rows)
    return {"metrics": metrics, "floors": floors, "model": name_of(model), "data": data_name(data),
            "measured_by": registry.name_of(task), "prompt": recipe.block("prompting", mode),
            "prompt_tokens": sum(labeller.tokens) / len(labeller.tokens), "rows": len(rows),
            **left_out(reader), **judged(metrics, floors, False, {})}


def open_scorer(model: Model, eight_bits: bool = False) -> Scorer:
    """A language model, opened to be asked how likely words are; on a GPU where there is one."""
    from llmkit.system import devices, report

    if eight_bits:
        check_rounds(f"precision {INT8}", model)
    report.quiet_libraries()
    source = model if isinstance(model, Opened) else Base.open(model)
    opened = source if isinstance(source, Opened) else models.open_model(source, eight_bits=eight_bits)
    _, family = _family(source, recipe_of(place_of(model)))
    return Scorer(opened, family, device=devices.kind(), at_once=1024 if devices.on_cpu() else 16_384)


def untuned(ready: Ready, model: Model) -> Learner:
    """The model that a run was tuned from; RequestError where there is none to be found."""
    from llmkit.training.learner import Learner

    learned, objective = ready.learned, ready.learner.objective
    before = learned.backbone.pretrained if learned is not None else None
    if before is None:
        raise RequestError(f"{name_of(model)}: {registry.name_of(objective)} is measured beside the model that it was "
                           "tuned from; give a run that started from a pretrained model.")
    return Learner(models.open_model(before, objective.head_for(ready.learner.family)).model, objective,
                   ready.learner.family)


def _floors(
    chosen: Learning, learned: recipe.Recipe | None, sets: Sets, setup: Setup,
) -> tuple[Floors, bool]:
    """What the rows' metrics are without a language model, learned from the run's own rows where they are still there.

    Elsewhere from nothing but the rows themselves: then only floors that need no training rows are given. And whether
    there were training rows.
    """
    if not isinstance(chosen, Task):
        return {}, False
    rows = [row for part in sets.train if isinstance(part, Encoded) for row in part.rows]
    before: Sequence[Row] = []
    try:
        if learned is not None and type(chosen) is type(learned.learning):
            before = learned_rows(chosen.settled([], setup), learned)
    except DataError:  # moved or deleted since
        before = []
    return chosen.floors(chosen.seen(before[:FLOOR_ROWS], setup), chosen.seen(rows, setup)), bool(before)


def learned_rows(task: Task, learned: recipe.Recipe) -> list[Row]:
    """The rows that a run learned from, without those that it held out; none where they went with a program."""
    data = learned.data
    if any(source.source.startswith(IN_MEMORY) for source in data.train):
        return []
    parts = [task.read(open_source(source, spares=data.on_bad_row == "skip", tables=task.tables))
             for source in data.train]
    held: list[list[tuple[Row, Place]]] = []
    if isinstance(data.validation, int | float):
        parts, held = split(parts, data.validation, learned.seed, task.together)
    if data.shots is not None:
        parts, _ = few_shots(parts, data.shots, learned.seed, task.labels_of)
    swapped = swapping([open_source(source, tables=task.tables) for source in data.train], data.augment)
    parts, *_ = doubled_rows(parts, held, swapped, learned.seed, task.swapped, task.together, task.unswapped)
    return [row for part in parts for row, _ in part]


def place_of(model: Model) -> str | Path:
    """What a model was asked for by; of an opened one, its folder."""
    return model.folder if isinstance(model, Opened) else model


def data_name(data: str | Path | Given) -> str:
    """What rows are called in a result: their file, or just rows."""
    return str(data) if isinstance(data, str | Path) else ROWS


def name_of(model: Model) -> str:
    """What a model is called in a result."""
    return str(place_of(model))
