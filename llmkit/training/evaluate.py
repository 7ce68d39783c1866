"""An evaluation: every row once, shared by the processes, with masks that never change."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from llmkit import recipe as recipes
from llmkit.backbones.shared.routers import FIGURES, Load
from llmkit.data.batches import EVALUATION, Batch, Drawn, RowOrder, in_order, load
from llmkit.objectives.base import Judged, Sets, Setup
from llmkit.system import devices, signals
from llmkit.system.devices import moved, precise
from llmkit.system.errors import DataError, RequestError, device_full
from llmkit.system.finite import check_all
from llmkit.system.plural import many
from llmkit.system.signals import Stopping
from llmkit.tasks.base import Encoded
from llmkit.training.learner import Collator, Learner
from llmkit.training.spread.base import Spread
from llmkit.training.spread.ddp import DataParallel
from llmkit.training.state import Interrupted

log = logging.getLogger("llmkit")


@dataclass
class Room:
    """How much is judged at once; less from where a device's memory ended on."""

    rows: int
    """Rows of a batch."""
    tokens: int | None = None
    """Positions that a device digests at once: as many rows as have so many together, where those are more."""

    def halve(self, rows: int) -> None:
        """A batch of so many rows didn't fit: no more than half of them, long or short."""
        self.rows, self.tokens = max(1, min(self.rows, rows // 2)), None


def evaluate(
    accelerator: Accelerator, learner: Learner, sets: Sequence[Any], setup: Setup, room: Room, last: bool = True,
    stop: Stopping | None = None, spread: Spread | None = None, answers: list[dict[str, Any]] | None = None,
) -> dict[str, float]:
    """Mean losses by head and the objective's metrics over all rows of `sets`, shared by the processes.

    room     what a process holds at once; less of it is left where a device's memory ends
    last     whether no other evaluation of the run follows
    spread   how the learner lies on the processes; whole on each where nothing is said
    answers  where a count of the answers is put, by the main process

    Interrupted, on all of them, where `stop` heard a signal on one. DataError where no row has anything to predict.
    """
    objective, spread = learner.objective, spread or DataParallel(accelerator)
    sums = precise(torch.zeros(2, len(objective.weights), device=accelerator.device))
    judged: list[Judged] = []
    load: Load | None = None
    written = objective.to_write(sum(map(len, sets)), last)
    with spread.judging():
        for rows, batch, (losses, some) in each(
                accelerator, learner, sets, setup, room, stop=stop, even=spread.even,
                work=lambda batch: learner(batch, "judge") if written is None else (learner(batch), None)):
            if not rows:  # only so that the others can compute
                continue
            counts = objective.targets(batch)
            sums += torch.stack([torch.stack([precise(part[head]) for head in objective.weights])
                                 for part in (losses, counts)])
            if some is not None:
                judged.append((rows, some))
            if learner.load is not None:
                load = learner.load.kept() if load is None else load + learner.load.kept()
        with spread.alone(learner) if written else nullcontext():  # how often a writer calls the model is its own
            for rows, _, said in each(accelerator, learner, sets, setup, Room(room.rows), stop=stop, chosen=written,
                                      work=lambda batch: learner(batch, "predict")) if written else ():
                judged.append((rows, said))
    spread.judged(learner)
    if stop is not None and (by := heard(accelerator, stop)) is not None:
        raise Interrupted(by)
    total, count = accelerator.reduce(sums, "sum").tolist()
    if not any(count):
        raise DataError("data.validation: its rows have nothing to predict.")
    means = {head: a / max(1.0, b) for head, a, b in zip(objective.weights, total, count, strict=True)}
    means["loss"] = sum(weight * means[head] for head, weight in objective.weights.items())
    check_all(means, "evaluation: the mean loss")
    everyone = gather_object(judged) if accelerator.num_processes > 1 else judged
    everyone = sorted(everyone, key=lambda batch: batch[0])
    figures = objective.figures(means, everyone, sets, setup)
    if answers is not None and accelerator.is_main_process:
        answers.append(objective.tally(everyone, sets, setup))
    return {**figures, **routed(accelerator, learner, load)}


def routed(accelerator: Accelerator, learner: Learner, load: Load | None) -> dict[str, float]:
    """How evenly the tokens of all processes' rows went to the experts; nothing where a model has none."""
    if learner.routers is None:
        return {}
    load = learner.routers.nothing(accelerator.device) if load is None else load  # a process may have had no row
    everyones = load.of_flat(accelerator.reduce(load.flat(), "sum"))
    return dict(zip(FIGURES, everyones.figures().tolist(), strict=True))


def heard(accelerator: Accelerator, stop: Stopping) -> signal.Signals | None:
    """The signal that any of the processes got."""
    flags = torch.tensor(stop.flags(), device=accelerator.device)
    return signals.heard(accelerator.reduce(flags, "sum").tolist())


def each(
    accelerator: Accelerator, learner: Learner, sets: Sequence[Any], setup: Setup, room: Room,
    work: Callable[[Batch], Any], chosen: Sequence[int] | None = None, stop: Stopping | None = None, even: bool = False,
) -> Iterator[tuple[list[int], Batch, Any]]:
    """What is `visited`, and what `work` makes of each batch: (numbers of the rows, batch, what was made of it).

    Where a device's memory ends, the rows that are left come in smaller batches, which changes nothing but rounding.
    RequestError where a batch can't be smaller, and where other processes go through batches of the same size.
    """
    left: Sequence[int] = range(sum(map(len, sets))) if chosen is None else chosen
    while True:
        done, failed = set[int](), 0
        with closing(visited(accelerator, learner, sets, setup, room.rows, left, stop, even, room.tokens)) as batches:
            for rows, batch in batches:
                try:
                    found = work(batch)
                except RuntimeError as error:  # its traceback holds tensors: they go with it
                    if not device_full(error):
                        raise
                    if len(rows) < 2 or accelerator.num_processes > 1:
                        raise too_large(len(rows), setup.max_length, accelerator.num_processes) from error
                    failed = len(rows)
                    break
                yield rows, batch, found
                done |= {*rows}
        if not failed:
            return
        del batch, batches
        devices.release()
        room.halve(failed)
        log.warning("an evaluation: batches of %d rows don't fit in memory; going on with %d, which changes rounding "
                    "only", failed, room.rows)
        left = [row for row in left if row not in done]


def too_large(rows: int, length: int, processes: int) -> RequestError:
    """The error for a batch that a device's memory has no room for, and that can't be made smaller."""
    many = "a row" if rows < 2 else f"{rows} rows"
    where = f"an evaluation: {many} of up to {length:,} tokens {'doesn' if rows < 2 else 'don'}'t fit in memory"
    if processes > 1:
        return RequestError(f"{where}, and other processes go through batches of the same size. Use a smaller "
                            "training.micro_batch_size; what checkpoints hold is kept.")
    return RequestError(f"{where}. Make rows shorter (data.max_length, --max-length), or take a smaller model.")


def visited(
    accelerator: Accelerator, learner: Learner, sets: Sequence[Any], setup: Setup, size: int,
    chosen: Sequence[int] | None = None, stop: Stopping | None = None, even: bool = False, tokens: int | None = None,
) -> Generator[tuple[list[int], Batch]]:
    """The batches of `sets`, or of their `chosen` rows, that are this process's: (numbers of the rows, batch).

    Where `stop` heard a signal, there are no more. `even`: every process gets as many batches as the first, however
    few its rows are and whatever it hears; those beyond its rows are of no row. `tokens`: see `Room`.

    The learner is without dropout while they are gone through.
    """
    drawn, long = Drawn(sets, seed=0), lengths(sets)
    some = range(len(drawn)) if chosen is None else chosen
    if tokens is not None and long is None:
        long = [setup.max_length] * len(drawn)
    among = in_order(len(some), size, 0, 1, None if long is None else [long[row] for row in some], tokens)
    mine = among[accelerator.process_index::accelerator.num_processes]
    keys = [[(nth, some[place]) for nth, place in batch] for batch in mine]
    short = -(-len(among) // accelerator.num_processes) - len(keys) if even else 0
    was = learner.training
    learner.eval()
    batches = load(drawn, keys + [[(EVALUATION, some[0])]] * short, Collator(learner.objective, setup.tokenizer))
    try:
        for rows, batch in zip([*keys, *([] for _ in range(short))], batches, strict=True):
            if not even and stop is not None and stop.by is not None:
                break
            with moved([batch], accelerator.device) as (there,):
                yield [row for _, row in rows], there
    finally:
        learner.train(was)


def refer(
    accelerator: Accelerator, learner: Learner, sets: Sequence[Any], setup: Setup, size: int,
    chosen: Sequence[int] | None = None,
) -> None:
    """Add to the rows of `sets`, or the `chosen` ones, as `reference`, what the untuned model says of each: once."""
    with torch.inference_mode(), accelerator.autocast():
        found = [(rows, said) for rows, _, said in each(
            accelerator, learner, sets, setup, Room(size), lambda batch: learner(batch, "refer"), chosen)]
    everyone = gather_object(found) if accelerator.num_processes > 1 else found
    said = {row: one for rows, some in everyone for row, one in zip(rows, some, strict=True)}
    places = [(part, row) for part in sets for row in range(len(part))]
    for number, one in said.items():
        part, row = places[number]
        part.features[row]["reference"] = np.array(one, dtype=np.float32)


def refer_all(
    accelerator: Accelerator, learner: Learner, sets: Sets, setup: Setup, plan: recipes.Training, order: RowOrder,
    steps: int | None,
) -> None:
    """Add what the untuned model says to the rows that a run will see, as far as that is known, and to all held out."""
    assert isinstance(plan.micro_batch_size, int)
    count = sum(map(len, sets.train))
    seen = seen_rows(count, plan, order, steps)
    held = sum(map(len, sets.validation))
    if accelerator.is_main_process:
        log.info("what the untuned model says of %s%s is computed first", many(len(seen), "row"),
                 f" and {held:,} held out" if held else "")
    refer(accelerator, learner, sets.train, setup, plan.micro_batch_size, seen)
    if held:
        refer(accelerator, learner, sets.validation, setup, plan.micro_batch_size)


def seen_rows(count: int, plan: recipes.Training, order: RowOrder, steps: int | None) -> Sequence[int]:
    """Which of `count` training rows a run of so many steps sees; all where nobody knows, or it sees them often."""
    if steps is None or steps * plan.global_batch_size >= 4 * count:
        return range(count)
    return sorted({order.at(position)[1] for position in range(steps * plan.global_batch_size)})


def lengths(sets: Sequence[Any]) -> list[int] | None:
    """How long each row is, where that is known; rows of text are as long as can be."""
    if not all(isinstance(part, Encoded) for part in sets):
        return None
    return [part.length(row) for part in sets for row in range(len(part))]
