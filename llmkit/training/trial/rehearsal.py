"""What a run will take, before anyone spends hours on it: three real steps are measured, the rest is counted."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from llmkit.backbones.kernels import flops, liger, shortcuts
from llmkit.data.batches import Drawn, Order, RowOrder, positions
from llmkit.data.sources import Reader
from llmkit.models import ends
from llmkit.models.quantizing import bytes_in, numbers_in
from llmkit.planning.settle import Settled, settle
from llmkit.planning.unheeded import unheeded
from llmkit.recipe import Recipe, registry
from llmkit.system import cache, devices, machine, report
from llmkit.system.errors import CheckpointError
from llmkit.system.machine import size
from llmkit.system.signals import stopping
from llmkit.tasks.base import Encoded
from llmkit.training.evaluate import visited
from llmkit.training.folder import trackers
from llmkit.training.folder.resume import as_meant, pick_up
from llmkit.training.folder.run_folder import RunFolder, telling
from llmkit.training.learner import Way
from llmkit.training.log import Log
from llmkit.training.prepare import idles, material, ready
from llmkit.training.session import Session
from llmkit.training.spread.agreeing import agreed, connect, take_device
from llmkit.training.spread.alike import met
from llmkit.training.spread.processes import accelerate, world
from llmkit.training.step import Stepper
from llmkit.training.teaching.kept import not_kept
from llmkit.training.teaching.pupil import Pupil

log = logging.getLogger("llmkit")

WARM, STEPS = 2, 3
"""Steps that aren't measured, and steps that are."""
ROWS = 512
"""Rows whose tokens are counted to know those of all."""
BYTES_A_ROW, MUCH = 40, 10**9
"""What `Order` takes for a row while it makes a pass, with the pass before it; and bytes that are worth a word."""
BATCHES = 3
"""Micro-batches of an evaluation that are measured."""
SAMPLE = 64_000_000
"""Bytes that are written to learn how long a checkpoint takes."""
TENSOR, STATE = 120, 820
"""Bytes that a file needs for each tensor beside its numbers, and the optimizer's file for each one's state."""
MANIFEST, PAPERS = 4_300, 5_000
"""Bytes of a checkpoint's manifest, the recipe in it; and of a run's recipe, summary and model card."""
LINE = 250
"""Bytes of a line of metrics.jsonl."""


def plan(request: Recipe) -> dict[str, Any]:
    """Measure three steps of a recipe's run on this machine, and say what the whole of it takes.

    Refuses what `fit` refuses. Nothing is left behind but the caches that the run would fill. Sizes are in bytes, times
    in seconds; `speed`, `time`, `data` and `disk` are None where the model doesn't fit into memory. With several
    processes, each calls this.
    """
    with (stopping(", and nothing is kept") as stop, tempfile.TemporaryDirectory(prefix="llmkit-") as away,
          cache.noted() as cached, shortcuts.only(liger.ways(request.training)), met(request, "auto") as meeting):
        report.quiet_libraries()
        trackers.check(request.training.report_to)
        request = as_meant(request, "auto")
        take_device()
        settled = agreed(settle(request, world(), of_any_size=True), meeting)
        recipe, training = settled.recipe, settled.recipe.training
        fits = (most := least_memory(settled)) <= (free := machine.free_memory())
        read = material(settled, meeting) if meeting.decide("fits", fits, all) else None
        connect(meeting)
        accelerator = accelerate(training.precision, Path(away), idles(settled), training.tf32)
        found = about(settled)
        warnings: list[str] = found["warnings"]
        if read is None:
            warnings.append(f"it needs at least {size(most)} of memory, and {size(free)} are free; tune fewer weights "
                            "(lora, prefix …), or take a smaller model")
            return found
        session = ready(settled, read, meeting, accelerator, RunFolder(Path(away)), stop, time.monotonic(),
                        refers=False)
        asking = seconds_to_refer(session) if recipe.task is not None and recipe.task.reference else 0.0
        weights = bytes_in((*session.learner.parameters(), *session.learner.buffers()))
        trained = sum(parameter.nbytes for parameter in session.learner.trained.values())
        found["parameters"] = numbers_in(session.learner.parameters())
        found["trainable_parameters"] = sum(parameter.numel() for parameter in session.learner.trained.values())
        found["active_parameters"] = found["parameters"] - settled.idle
        found["notes"] += [*order_in_words(session.order), *session.sets.notes,
                           *(note for reader in settled.readers for note in reader.notes)]
        found["notes"] += about_teacher(session)
        found["data"] = data = rows_and_tokens(session)
        measured = Measured.of(session)
        found["micro_batch_size"] = session.recipe.training.micro_batch_size  # a GPU may have had room for fewer
        found["memory"] = {
            "weights": weights, "gradients": trained, "optimizer": (kept := int(recipe.rule.states * trained)),
            "activations": max(0, measured.grown - trained - kept), "peak": sum(gather_object([peak()])),
            "checkpoint_copy": 0, "available": machine.memory()}
        found["length"] = length = how_long(session, measured, data["tokens_per_row"])
        if training.async_save and length["steps"] > training.save_steps:
            found["memory"]["checkpoint_copy"] = trained + kept
        found["speed"] = measured.speed(training.precision)
        found["disk"] = disk = on_disk(session, Path(away), request.folder, cached, length["steps"])
        found["time"] = timed(session, measured, length, disk, request.folder, asking)
        if accelerator.is_main_process:
            warnings += [*unheeded(recipe, session.length.steps, accelerator.num_processes),
                         *warned(found, request, recipe, settled.readers)]
        accelerator.wait_for_everyone()
        return found


def peak() -> int:
    """The most memory that this process has held, in bytes, of what a run is measured by: a GPU's where it has one."""
    gpu = machine.peak_gpu_memory()
    return machine.peak_memory() if gpu is None else gpu


def about(settled: Settled) -> dict[str, Any]:
    """What is known before the model is made."""
    recipe, training = settled.recipe, settled.recipe.training
    parameters = settled.size.parameters
    backbone = recipe.backbone.pretrained or f"{recipe.backbone.family}-{recipe.backbone.size or 'default'}"
    every = trains_all(recipe)
    trained = 4 * parameters if every else 0
    return {
        "recipe": recipe.name, "learning": registry.name_of(recipe.learning), "tuning": registry.name_of(recipe.tuning),
        "backbone": str(backbone), "output_dir": str(recipe.folder),
        "packing": recipe.data.packing, "max_length": recipe.data.max_length,
        "global_batch_size": training.global_batch_size, "micro_batch_size": training.micro_batch_size,
        "optimizer": registry.name_of(recipe.rule), "learning_rate": training.learning_rate,
        "teacher": None if recipe.teacher is None else recipe.teacher.model,
        "precision": training.precision, "compile": training.compile, "chosen": dict(settled.chosen),
        "processes": world(), "threads": torch.get_num_threads(),
        "device": devices.kind(),
        "parameters": parameters, "trainable_parameters": parameters if every else None,
        "active_parameters": parameters - settled.idle,
        "data": None, "length": None, "speed": None, "time": None, "disk": None,
        "memory": {"weights": settled.size.weights, "gradients": trained,
                   "optimizer": int(recipe.rule.states * trained),
                   "activations": int(training.micro_batch_size) * settled.size.row(recipe.data.max_length or 0),
                   "peak": None, "checkpoint_copy": 0, "available": machine.memory()},
        "notes": [], "warnings": []}


def about_teacher(session: Session) -> list[str]:
    """What a teacher takes beside its student, in words; nothing where there is none."""
    learner, spec = session.learner, session.recipe.teacher
    if spec is None or not isinstance(learner, Pupil):
        return []
    held = list(learner.lesson.tutor.model.parameters())
    once = "" if not_kept(session.settled, [*session.sets.train, *session.sets.validation], None) else (
        "; it is asked at every step here, and a run asks once for each row where the answers fit")
    return [f"teacher {spec.model}: {sum(one.numel() for one in held):,} parameters, "
            f"{size(sum(one.nbytes for one in held))} beside the student's{once}"]


def trains_all(recipe: Recipe) -> bool:
    """Whether all weights of the model train, be it under an adapter."""
    return recipe.tuning.whole or (recipe.tuning.adapter and recipe.tuning.trains_model)


def least_memory(settled: Settled) -> int:
    """Bytes without which this machine's processes can't make a step of one row each."""
    whole = trains_all(settled.recipe)
    row = settled.size.row(settled.recipe.data.max_length or 0)
    return machine.sharing() * (row + (settled.size.state if whole else settled.size.weights))


def order_in_words(order: RowOrder) -> list[str]:
    """What the order of the rows takes of each process's memory, where that is much."""
    takes = order.epoch_rows * BYTES_A_ROW
    if not isinstance(order, Order) or takes < MUCH:
        return []
    return [f"the order of {order.epoch_rows:,} rows takes about {machine.size(takes)} in each process; with "
            "data.shuffle: window, or from a folder that `llmkit tokenize` wrote, it takes nothing"]


def rows_and_tokens(session: Session) -> dict[str, Any]:
    """How many rows and tokens a pass over the data has; tokens are counted in all rows where there are few."""
    order, objective = session.order, session.objective
    count = min(order.epoch_rows, ROWS)
    drawn, tokens = Drawn(session.sets.train, session.recipe.seed), 0
    for first in range(0, count, 32):
        keys = [order.at(place) for place in range(first, min(count, first + 32))]
        tokens += positions(objective.collate([drawn[key] for key in keys], session.setup.tokenizer))
    return {"rows": order.epoch_rows, "tokens": round(order.epoch_rows * tokens / count),
            "counted": count == order.epoch_rows, "tokens_per_row": tokens / count,
            "validation_rows": sum(map(len, session.sets.validation))}


@dataclass(frozen=True)
class Measured:
    """What some real steps took."""

    seconds: Sequence[float]
    """Of each step that is measured: waiting for data included, as in a run."""
    tokens: Sequence[int]
    operations: float
    """Floating-point operations a token, over all processes."""
    rate: float
    """Operations a second of the machine's matrix products, those of all processes together."""
    grown: int
    """Bytes that the steps took beside what was there before them, in this process."""

    @classmethod
    def of(cls, session: Session) -> Measured:
        """Train for a few steps: the first aren't measured, for they make what stays; in one more, work is counted."""
        stepper = Stepper(session, Log(session))
        batches, seconds, tokens = stepper.batches(), [], []
        with grown() as more:
            done = 0
            while done < WARM + STEPS:
                before, began = session.state.tokens, time.monotonic()
                if not stepper.tried(batches):
                    batches = stepper.smaller()
                    continue
                devices.wait()
                done, session.state.step = done + 1, session.state.step + 1
                if done > WARM:
                    seconds.append(time.monotonic() - began)
                    tokens.append(session.state.tokens - before)
                if session.state.step == session.length.steps:  # a short run again from its first step
                    session.state.step, batches = 0, stepper.batches()
        before = session.state.tokens
        counted = flops.counted(lambda: stepper.step(batches))
        session.accelerator.wait_for_everyone()  # all processes multiply at once, as they train
        both = gather_object([(counted, flops.rate(session.recipe.training.precision))])
        operations = sum(one for one, _ in both) / (session.state.tokens - before)
        return cls(seconds, tokens, operations, sum(rate for _, rate in both), more[0])

    @property
    def tokens_per_second(self) -> float:
        """As a run says it."""
        return sum(self.tokens) / sum(self.seconds)

    def speed(self, precision: str) -> dict[str, Any]:
        """Speed, and which share it is of what the machine could do."""
        a_step = sum(self.tokens) / len(self.tokens)
        return {"steps_measured": len(self.seconds), "seconds_per_step": list(self.seconds),
                "tokens_per_second": self.tokens_per_second, "flops_per_step": round(self.operations * a_step),
                "matrix_flops_per_second": self.rate, "mfu": self.operations * self.tokens_per_second / self.rate}


@contextmanager
def grown() -> Iterator[list[int]]:
    """How many bytes of memory the block takes at its most, beside what was there; on a GPU, of the GPU's."""
    found = [0]
    if devices.kind() not in ("cpu", "mps"):
        driver = devices.driver()
        driver.reset_peak_memory_stats()
        before = driver.memory_allocated()
        yield found
        found[0] = driver.max_memory_allocated() - before
        return
    before, over = machine.held_memory(), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            found[0] = max(found[0], machine.held_memory() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def how_long(session: Session, measured: Measured, tokens_per_row: float) -> dict[str, Any]:
    """Steps, tokens and passes of the whole run; `exact` says whether the recipe alone decides how many steps."""
    training, rows = session.recipe.training, session.recipe.training.global_batch_size
    a_step, steps = rows * tokens_per_row, session.length.steps
    by = next(name for name in ("max_steps", "num_train_epochs", "max_tokens", "max_minutes")
              if getattr(training, name) is not None)
    if steps is None and training.max_tokens is not None:
        steps = math.ceil(training.max_tokens / a_step)
    if steps is None:
        steps = max(1, math.ceil(60 * float(training.max_minutes or 0) * measured.tokens_per_second / a_step))
    return {"ends_by": by, "steps": steps, "exact": session.length.steps is not None, "tokens_per_step": round(a_step),
            "tokens": round(steps * a_step), "epochs": steps * rows / session.order.epoch_rows,
            "may_end_earlier": training.early_stopping_patience is not None}


def timed(
    session: Session, measured: Measured, length: dict[str, Any], disk: dict[str, Any], folder: Path, asking: float,
) -> dict[str, Any]:
    """Seconds of the whole run, from where its model is ready on; `asking`: to ask the untuned model about a row."""
    plan, steps = session.recipe.training, length["steps"]
    training = length["tokens"] / measured.tokens_per_second
    if length["ends_by"] == "max_minutes":
        training = 60 * float(plan.max_minutes or 0)
    evaluations, evaluating = 0, 0.0
    if session.sets.validation:
        evaluations = 1 + times(steps, plan.eval_steps or steps)
        last = evaluation(session, plan.metric_for_best_model is None)
        evaluating = (evaluations - 1) * evaluation(session, False) + last
    checkpoints = times(steps, plan.save_steps)
    each = seconds_to_write(disk["checkpoint"], folder) if session.accelerator.is_main_process else 0.0
    saving = (checkpoints - 1) * (waits(session, each, training / checkpoints) if plan.async_save else each) + each
    rows, held = (sum(map(len, part)) for part in (session.sets.train, session.sets.validation))
    seen = min(rows, steps * plan.global_batch_size) + held
    return {"training": training, "evaluations": evaluating, "evaluation_count": evaluations, "checkpoints": saving,
            "checkpoint_count": checkpoints, "reference": seen * asking,
            "total": training + evaluating + saving + seen * asking}


def waits(session: Session, writing: float, between: float) -> float:
    """Seconds that a run stands still for a checkpoint that is written beside its steps: for the copy, which is made
    here once, and where it takes longer than the steps to the next one, for that.

    writing, between   seconds to write it, and from one checkpoint to the next
    """
    began = time.monotonic()
    session.spread.copied(session.learner, session.optimizer, session.best)
    return time.monotonic() - began + max(0.0, writing - between)


def times(steps: int, every: int) -> int:
    """How often something happens that comes every so many steps and after the last."""
    return (steps - 1) // every + 1


def evaluation(session: Session, last: bool) -> float:
    """Seconds that an evaluation takes: a few micro-batches are measured."""
    rows = sum(map(len, session.sets.validation))
    written, held = session.objective.to_write(rows, last), session.sets.validation
    if written is None:
        return seconds_to_visit(session, held, range(rows), "judge")
    return seconds_to_visit(session, held, range(rows), "loss") + seconds_to_visit(session, held, written, "predict")


def seconds_to_refer(session: Session) -> float:
    """Seconds in which the untuned model is asked about a row; each row is given an answer that stands for its own."""
    count = sum(map(len, session.sets.train))
    first = next(visited(session.accelerator, session.learner, session.sets.train, session.setup, 1, [0] * world()))[1]
    with torch.inference_mode(), session.accelerator.autocast():
        (answer,) = session.learner(first, "refer")
    for part in (*session.sets.train, *session.sets.validation):
        assert isinstance(part, Encoded)
        for features in part.features:
            features["reference"] = np.array(answer, dtype=np.float32)
    return seconds_to_visit(session, session.sets.train, range(count), "refer") / count


def seconds_to_visit(session: Session, sets: Sequence[Any], rows: Sequence[int], way: Way) -> float:
    """Seconds in which the learner does `way` with some rows of `sets`, from a few of them."""
    micro = int(session.recipe.training.micro_batch_size)
    count = min(len(rows), BATCHES * micro * session.accelerator.num_processes)
    if not count:
        return 0.0
    some = [rows[nth * len(rows) // count] for nth in range(count)]
    with torch.inference_mode(), session.accelerator.autocast():
        for chosen in (some[: micro * session.accelerator.num_processes], some):  # the first time isn't measured
            began = time.monotonic()
            for _, batch in visited(session.accelerator, session.learner, sets, session.setup, micro, chosen):
                session.learner(batch, way)
            session.accelerator.wait_for_everyone()
    return float((time.monotonic() - began) * len(rows) / count)


def on_disk(session: Session, away: Path, folder: Path, cached: set[Path], steps: int) -> dict[str, Any]:
    """Bytes of all that the run leaves; of weights they are counted, what is small is written into a folder `away`."""
    tuning, tuned, plan = session.recipe.tuning, session.learner.tuned, session.recipe.training
    trained = list(session.learner.trained.values())
    weights = sum(parameter.nbytes + TENSOR for parameter in trained)
    state = sum(int(session.recipe.rule.states * parameter.nbytes) + STATE for parameter in trained)
    best = weights if plan.metric_for_best_model is not None else 0
    more = sum(tensor.nbytes + TENSOR for tensor in tuning.state(tuned).values())
    checkpoint = weights + state + best + more + MANIFEST
    kept = min(times(steps, plan.save_steps), plan.save_total_limit)
    model, others = 0, 0
    if session.accelerator.is_main_process:
        small = away / "small"
        small.mkdir()
        session.setup.tokenizer.save_pretrained(small)
        words = bytes_of(small)
        if not tuning.trains_model:
            tuning.save(tuned, small)
        tuned.config.save_pretrained(small)
        ends.leave(tuned, small)
        session.objective.describe(small, session.setup)
        model = bytes_of(small) + (stored(tuned) if tuning.trains_model else 0)
        model += words if tuning.trains_model and tuning.adapter else 0  # a tokenizer beside each
        others = sum(stored(network) + words for network in session.objective.others(session.learner.model).values())
        others += bytes_of(away / "base")
    lines = times(steps, plan.logging_steps) * LINE
    run = kept * checkpoint + model + others + lines + PAPERS
    tokens = sum(bytes_of(one) for one in cached)
    # a checkpoint is whole before the oldest goes
    return {"checkpoint": checkpoint, "checkpoints_kept": kept, "model": model, "others": others, "run": run,
            "token_cache": tokens, "total": run + tokens, "at_most": run + tokens + checkpoint,
            "free": machine.free_disk(folder)}


def stored(network: nn.Module) -> int:
    """Bytes of a network in a file: what is tied stands once."""
    tensors = {tensor.data_ptr(): tensor for tensor in network.state_dict().values()}
    return sum(tensor.nbytes + TENSOR for tensor in tensors.values())


def bytes_of(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seconds_to_write(count: int, folder: Path) -> float:
    """Seconds in which so many bytes are written where the run's folder will be, hashed, and safe on the disk.

    The file has no name: nothing is left of it, whatever happens.
    """
    part = os.urandom(min(count, 1_000_000))
    pieces = max(1, min(count, SAMPLE) // len(part))
    place = machine.existing(folder)
    with telling(place), tempfile.TemporaryFile(dir=place) as file:
        began = time.monotonic()
        for _ in range(pieces):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
        digest = sha256()
        for _ in range(pieces):
            digest.update(part)
        return (time.monotonic() - began) * count / (pieces * len(part))


def warned(found: dict[str, Any], request: Recipe, recipe: Recipe, readers: Sequence[Reader]) -> list[str]:
    """What stands in the way of the run, in words."""
    memory, disk = found["memory"], found["disk"]
    out = []
    if found["device"] == "cpu" and (most := memory["peak"] + memory["checkpoint_copy"]) > 0.9 * memory["available"]:
        out.append(f"it takes {size(most)} of the {size(memory['available'])} of memory: a smaller "
                   "micro_batch_size leaves more room")
    if disk["at_most"] > disk["free"]:
        out.append(f"it needs up to {size(disk['at_most'])} of disk, and {size(disk['free'])} are free; "
                   "save_total_limit: 1 keeps fewer checkpoints")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # what a run would say of it
        start, done = pick_up(RunFolder(request.folder), request, recipe, "auto", readers)
    except CheckpointError as error:
        return [*out, f"a run would be refused: {error}"]
    finally:
        log.setLevel(level)
    if done is not None:
        out.append(f"{request.folder} holds this run, and it is complete: there would be nothing to do")
    if start is not None:
        out.append(f"{request.folder} holds a part of this run: it would go on after step {start.step:,}")
    return out
