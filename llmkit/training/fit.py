"""One run, from a recipe to a folder. Read `fit` top to bottom."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from llmkit import recipe as recipes
from llmkit.backbones.base import Family
from llmkit.backbones.kernels import shortcuts
from llmkit.backbones.kernels.compiling import compile_layers
from llmkit.backbones.kernels.unpadded import unpad
from llmkit.data.batches import Batch, Drawn, Micro, Order, in_order, load, positions
from llmkit.objectives.base import Judged, Objective, Sets, Setup, more_is_better
from llmkit.planning.choices import divisors
from llmkit.planning.settle import SCHEDULES_WITHOUT_END, Settled, network, settle, speak, with_prompt
from llmkit.recipe import LENGTHS, Recipe, registry
from llmkit.system import report, signals
from llmkit.system.errors import CheckpointError, DataError, NumberError, PlaceError, RequestError, nearest
from llmkit.system.signals import Stopping, stopping
from llmkit.tasks.base import Encoded, Task
from llmkit.training.run_folder import Checkpoint, Run, verify
from llmkit.tuning.base import Setting

log = logging.getLogger("llmkit")


MOST_SKIPPED = 20
"""Steps in a row that may be skipped before a run gives up."""
MOST_LOSSES, FEWEST_LOSSES, JUMP = 128, 16, 6.0
"""Losses that a new one is compared with, at most and at least, and the standard deviations above them of a jump."""


def fit(asked: Recipe, resume: str = "auto") -> dict[str, Any]:
    """Train as the recipe says, going on where an earlier run of it stopped; return the summary.

    `resume` is auto, must, never, or a checkpoint's path. Raises an LlmkitError whose status is the exit status.
    """
    began = time.monotonic()
    with stopping() as stop, ExitStack() as held:
        report.quiet_libraries()
        settled = settle(asked, world())
        recipe, plan, run = settled.recipe, settled.recipe.training, Run(asked.folder)
        accelerator = accelerate(plan.precision, plan.report_to, run.folder, idles(settled), plan.tf32)
        held.enter_context(shortcuts.only(plan.shortcuts))
        main = accelerator.is_main_process
        if main:
            held.enter_context(run.locked())
            held.callback(run.close)
        start, done = shared(accelerator, lambda: pick_up(run, asked, recipe, resume))
        if done is not None:
            return dict(done)
        loop = ready(settled if start is None else as_before(settled, run), accelerator, run, stop, began, start)
        if main:
            enough_room(run, loop.learner, loop.length, loop.state, plan, recipe.tuning.adapter)
            describe(loop.settled, loop.sets, loop.learner, start)
            list_bad_rows(loop.settled, run)
            loop.sets = with_floors(loop.sets, recipe.learning)
            run.rewind(loop.state.step if start is not None else -1)
            run.write_recipe(loop.recipe)
        if plan.report_to:
            accelerator.init_trackers(recipe.name)
        try:
            loop.train()
            return loop.finish()
        except BaseException as error:
            if main:
                with suppress(PlaceError):  # what went wrong first is what is told
                    loop.conclude("failed" if stop.by is None else "stopped", str(error))
            raise


def ready(
    settled: Settled, accelerator: Accelerator, run: Run, stop: Stopping, began: float, start: Checkpoint | None = None,
    refers: bool = True,
) -> Loop:
    """All that a run needs before its first step: tokenizer, rows, model, optimizer, and what `start` had of these.

    `began` is when the run began, on the monotonic clock. Caches are filled; in the run's folder nothing is written
    but the model that an adapter goes on, where no other folder holds it. `refers`: whether the untuned model is asked
    about each row, where the task needs that; it may take long.
    """
    recipe, plan = settled.recipe, settled.recipe.training
    with accelerator.main_process_first():  # the others find its caches
        tokenizer = speak(settled)
        setup = Setup(tokenizer, settled.family, recipe.data.max_length or 0, recipe.data.packing, recipe.seed,
                      metrics=tuple(plan.metrics))
        setup = with_prompt(setup, recipe.prompting, recipe.learning)
        sets = recipe.learning.prepare(settled.train, settled.validation, setup)
        setup = replace(setup, labels=tuple(sets.facts["labels"]) if "labels" in sets.facts else None,
                        problem=sets.facts.get("problem"))
        data = {reader.label: reader.fingerprint() for reader in settled.readers}
    state = State() if start is None else restored(start, data, accelerator.num_processes)
    torch.manual_seed(recipe.seed)
    learner = learn(settled, accelerator, sets, setup, run, refers)
    wrapped, optimizer = accelerator.prepare(learner, adamw(learner, plan, recipe.tuning.undecayed))
    if start is not None:
        bring_back(start, learner, optimizer)
        recipe.tuning.restore(learner.tuned, kept(start))
    return Loop(accelerator, settled, run, sets, setup, learner, wrapped, optimizer, data, stop, state,
                began - state.wall, None if start is None else best_of(start))


@dataclass
class State:
    """What the loop counts, and a checkpoint keeps."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Time in the step loop: waiting for data included, evaluation and saving not."""
    waited: float = 0.0
    """Of that, what the main process waited for data."""
    agreed: float = 0.0
    """That time as all processes know it."""
    wall: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last line of metrics.jsonl: losses and targets by head, tokens, seconds."""
    train_loss: float | None = None
    before: dict[str, float] | None = None
    """The evaluation before the first step."""
    evaluation: dict[str, float] | None = None
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Every evaluation, with its step."""
    best: dict[str, float] | None = None
    """Of these, the one whose weights are kept."""
    ended: str | None = None
    """Why the run ends before its length."""
    due: bool = False
    """Whether the evaluation after this step is still to be made: a signal came in it."""
    skipped: int = 0
    """Steps that weren't made because a number wasn't finite."""
    skipped_last: int = 0
    """Those of them in a row up to here."""
    losses: list[float] = field(default_factory=list)
    """Of the last lines of metrics.jsonl, by which a jump is told."""


class Interrupted(Exception):
    """A signal came in an evaluation."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(by.name)
        self.by = by


class Learner(nn.Module):
    """A model and its objective as one module whose forward is the loss, so that no head bypasses DDP's hooks."""

    def __init__(
        self, model: nn.Module, objective: Objective, family: type[Family], new: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.model, self.objective, self.family, self.new = model, objective, family, new
        self.rates: dict[str, float] = {}
        """Factors on the learning rate by a parameter's name; 1 for all others."""
        self.wakes: dict[str, int] = {}
        """The step from which a parameter trains; the first for all others."""

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What trains, by name; tied weights stand once."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def tuned(self) -> Any:
        """The model that the tuning method made, without networks beside it."""
        return self.objective.kept(self.model)

    def is_new(self, name: str) -> bool:
        """Whether a parameter is of a part that started from random weights beside pretrained ones."""
        return any(f".{part}." in f".{name}" for part in self.new)

    def forward(self, batch: Batch, way: str = "loss") -> Any:
        """`loss`: losses by head, summed over targets; `judge`: with predictions; `predict` and `represent`: these."""
        return getattr(self.objective, way)(self.model, batch, self.family)


@dataclass
class Loop:
    """The step loop and what happens around it."""

    accelerator: Accelerator
    settled: Settled
    run: Run
    sets: Sets
    setup: Setup
    learner: Learner
    wrapped: nn.Module
    """The learner as accelerate prepared it: under DDP, its forward synchronises gradients."""
    optimizer: Any
    data: Mapping[str, str]
    """Fingerprints of the sources."""
    stop: Stopping
    state: State
    began: float
    best: dict[str, torch.Tensor] | None = None
    """The weights of the best evaluation so far, where the recipe keeps those."""

    def __post_init__(self) -> None:
        self.recipe, self.objective = self.settled.recipe, self.learner.objective
        self.order = Order([len(examples) for examples in self.sets.train], weights(self.recipe), self.recipe.seed)
        self.length = Length(self.recipe.training, self.order.epoch_rows)
        self.factor = schedule(self.recipe.training, self.length)
        self.pending: dict[str, Any] = {}
        self.asked_to_stop: signal.Signals | None = None

    def train(self) -> None:
        """Steps until the recipe's length is reached; every event of a step comes in the same order."""
        plan, state = self.recipe.training, self.state
        if state.step == 0 and self.sets.validation:
            self.evaluate()
            state.before = state.evaluation
        batches = self.batches()
        self.stop.train()
        with report.progress(self.accelerator.is_main_process) as progress:
            clock = time.monotonic()
            while state.due or not self.over:
                if not state.due:
                    rate = self.rate
                    if not self.tried(batches):
                        batches = self.smaller()
                        continue
                    state.step += 1
                    state.seconds += time.monotonic() - clock
                    self.add("seconds", time.monotonic() - clock)
                    over = self.over
                    if state.step % plan.logging_steps == 0 or over:
                        figures = self.log(rate)
                        share = self.length.share(state)
                        progress.update(share, state.step, figures, state.seconds * (1 / max(share, 1e-9) - 1))
                    wanted = over or (plan.eval_steps and state.step % plan.eval_steps == 0)
                    state.due = bool(self.sets.validation and wanted)
                over = self.over
                if state.due:
                    self.evaluate()
                    if self.over and not over:
                        log.info("%s after step %d", state.ended, state.step)
                    over = self.over
                if self.accelerator.num_processes == 1:  # several must agree on it, at the next step
                    self.asked_to_stop = self.stop.by
                if state.step % plan.save_steps == 0 or over or self.asked_to_stop:
                    self.save()
                if self.asked_to_stop:
                    self.halt(self.asked_to_stop)
                clock = time.monotonic()

    def halt(self, by: signal.Signals) -> None:
        """End the run after a step that is saved."""
        raise self.stop.error(f"stopped by {by.name} after step {self.state.step}, which is saved; the same command "
                              "goes on from there", by)

    @property
    def over(self) -> bool:
        """Whether the run ends by a rule of its recipe."""
        return self.state.ended is not None or self.length.done(self.state)

    def batches(self) -> Iterator[Batch]:
        """The micro-batches of this process, from the current step on."""
        plan = self.recipe.training
        assert isinstance(plan.micro_batch_size, int)
        micro = Micro(self.order, plan.global_batch_size, plan.micro_batch_size, self.accelerator.process_index,
                      self.accelerator.num_processes, self.state.step, lengths(self.sets.train))
        loader = load(Drawn(self.sets.train, self.recipe.seed), micro, self.collate, plan.dataloader_num_workers,
                      pin=self.accelerator.device.type == "cuda")
        for batch in loader:
            yield {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows to a batch, as the objective does it."""
        return self.objective.collate(rows, self.setup.tokenizer)

    def step(self, batches: Iterator[Batch]) -> None:
        """One optimizer step.

        The loss is divided once, by the targets of all micro-batches on all processes: splitting changes nothing.
        """
        plan, state, accelerator = self.recipe.training, self.state, self.accelerator
        assert isinstance(plan.micro_batch_size, int)
        count = plan.global_batch_size // plan.micro_batch_size // accelerator.num_processes
        asked = time.monotonic()
        parts = [next(batches) for _ in range(count)]
        self.add("waited", time.monotonic() - asked)
        state.waited += time.monotonic() - asked
        if self.objective.turn(state.step) is not None:
            parts = [{**part, "step": torch.tensor(state.step)} for part in parts]
        totals, tokens = self.agree(parts)
        # dropout is a function of seed, step and process: nothing of it needs to be saved
        torch.manual_seed(mixed(self.recipe.seed, state.step, accelerator.process_index))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(state) * self.objective.pace(state.step)
        self.wrapped.train()
        # what gradient checkpointing computes again in the backward pass, it computes without the shortcuts
        with nullcontext() if plan.gradient_checkpointing else shortcuts.step(accelerator.device.type):
            sums = self.compared(parts, totals) if self.objective.whole else self.added(parts, totals)
        self.add("tokens", tokens)
        state.tokens += int(tokens)
        turn = self.objective.turn(state.step)
        wakes = self.learner.wakes
        for name, parameter in self.learner.trained.items() if turn is not None or wakes else ():
            if (turn is not None and not name.startswith(f"model.{turn}")) or wakes.get(name, 0) > state.step:
                parameter.grad = None  # waits: AdamW moves what has a gradient, be it 0
        norm = float(accelerator.clip_grad_norm_(self.learner.trained.values(), plan.max_grad_norm or math.inf))
        loss = float(self.everywhere(torch.stack([*sums.values()]).sum()))
        if not math.isfinite(loss) or (not math.isfinite(norm) and accelerator.scaler is None):
            self.not_finite(f"the loss is {loss}" if math.isfinite(norm) else f"the gradient is {norm}")
            return
        state.skipped_last = 0
        self.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:  # fp16 skips those that overflow
            self.recipe.tuning.after_step(self.learner.tuned, state.step + 1)
        self.optimizer.zero_grad()
        for head, total in totals.items():
            self.pending[head] = self.pending.get(head, 0.0) + sums[head]
            self.add(f"count/{head}", total)
        if math.isfinite(norm):  # fp16: the scaler skips the others, and finds a better scale
            state.window["norm"] = norm

    def everywhere(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a number over all processes."""
        alone = self.accelerator.num_processes == 1
        summed: torch.Tensor = value if alone else self.accelerator.reduce(value, "sum")
        return summed

    def not_finite(self, what: str) -> None:
        """Skip the step, where the recipe says so; else, or where all steps are so, NumberError."""
        state, step = self.state, self.state.step + 1
        where = f"step {step}: {what}, in rows {self.rows()}"
        if self.recipe.training.on_nonfinite == "stop":
            raise NumberError(f"{where}; no checkpoint holds it. A lower training.learning_rate, training.precision: "
                              "fp32 or training.on_nonfinite: skip may help.")
        state.skipped += 1
        state.skipped_last += 1
        if state.skipped_last >= MOST_SKIPPED:
            raise NumberError(f"{where}: {state.skipped_last} steps in a row were skipped; no checkpoint holds them.")
        self.optimizer.zero_grad()
        log.warning("%s; skipped, %d so far", where, state.skipped)
        self.event({"event": "skipped", "step": step, "why": what, "rows": self.row_numbers()})

    def tried(self, batches: Iterator[Batch]) -> bool:
        """Do a step; False where a GPU's memory is too small for it: then nothing of it stays."""
        pending = dict(self.pending)
        with suppress(torch.OutOfMemoryError):  # its traceback holds the step's tensors: both go here
            self.step(batches)
            return True
        self.optimizer.zero_grad()
        self.pending = pending
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False

    def smaller(self) -> Iterator[Batch]:
        """The batches from the current step on in smaller micro-batches, as a GPU's memory was too small for it.

        Neither rows nor losses change by it. RequestError where the recipe says how large micro-batches are, where they
        can't be smaller, and where other processes are in the middle of the same step.
        """
        plan = self.recipe.training
        rows = plan.micro_batch_size
        assert isinstance(rows, int)
        if "micro_batch_size" not in self.settled.chosen or rows == 1 or self.accelerator.num_processes > 1:
            raise RequestError(f"training.micro_batch_size: {rows} rows of {self.recipe.data.max_length} tokens don't "
                               "fit in this device's memory. Use fewer, gradient_checkpointing, or tune fewer weights.")
        less = max(divisors(plan.global_batch_size, rows // 2))
        log.warning("step %d: micro-batches of %d rows don't fit in memory; going on with %d, which changes no loss",
                    self.state.step + 1, rows, less)
        self.recipe = replace(self.recipe, training=replace(plan, micro_batch_size=less))
        self.settled = replace(self.settled, recipe=self.recipe)
        self.run.write_recipe(self.recipe)
        return self.batches()

    def added(self, parts: Sequence[Batch], totals: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """The losses of the step's micro-batches, one after the other, and their gradients."""
        accelerator, weight = self.accelerator, self.objective.weights
        seen = dict.fromkeys(weight, torch.zeros((), dtype=torch.float64, device=accelerator.device))
        for i, part in enumerate(parts):
            with nullcontext() if i + 1 == len(parts) else accelerator.no_sync(self.wrapped):
                sums = self.wrapped(part)
                loss = torch.stack([weight[head] * sums[head] / max(1.0, totals[head]) for head in weight]).sum()
                if i + 1 == len(parts):
                    loss = loss + self.penalty()
                accelerator.backward(loss * accelerator.num_processes)  # DDP takes the mean over processes
            seen = {head: seen[head] + sums[head].detach().double() for head in weight}
        return seen

    def compared(self, parts: Sequence[Batch], totals: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """The same where each row is compared with every other of the step, on all processes (GradCache).

        Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup": represent every row
        without a graph, take the gradient of the loss at the representations, then go through the model once more, a
        micro-batch at a time and with the same dropout, to bring that gradient to the weights.
        """
        accelerator, weight, rank = self.accelerator, self.objective.weights, self.accelerator.process_index
        seeds = [mixed(self.recipe.seed, self.state.step, rank + i * accelerator.num_processes)
                 for i in range(len(parts))]
        mine = []
        for part, seed in zip(parts, seeds, strict=True):
            torch.manual_seed(seed)
            with torch.no_grad():
                mine.append(self.learner(part, "represent").float())
        everyone = accelerator.gather(torch.cat(mine)).detach().requires_grad_()
        sums = self.objective.compare(everyone)
        loss = torch.stack([weight[head] * sums[head] / max(1.0, totals[head]) for head in weight]).sum()
        (slope,) = torch.autograd.grad(loss, everyone)
        own = slope.chunk(accelerator.num_processes)[rank].split([len(some) for some in mine])
        for i, (part, seed) in enumerate(zip(parts, seeds, strict=True)):
            torch.manual_seed(seed)
            with nullcontext() if i + 1 == len(parts) else accelerator.no_sync(self.wrapped):
                again = self.wrapped(part, "represent").float()
                towards = (again * own[i]).sum()
                if i + 1 == len(parts):
                    towards = towards + self.penalty()
                accelerator.backward(towards * accelerator.num_processes)
        # every process saw all rows: the sum over processes is the whole once
        return {head: sums[head].detach().double() / accelerator.num_processes for head in weight}

    def penalty(self) -> torch.Tensor | float:
        """What the tuning method adds to the loss of a step: the share of this process."""
        found: torch.Tensor | None = self.recipe.tuning.penalty(self.learner.tuned)
        return 0.0 if found is None else found / self.accelerator.num_processes

    def agree(self, parts: Sequence[Batch]) -> tuple[dict[str, float], float]:
        """(targets by head, tokens) of a step over all processes; signals and the clock are shared on the way."""
        heads = list(self.objective.weights)
        counts = [self.objective.targets(part) for part in parts]
        main = self.accelerator.is_main_process
        mine = [*(sum(float(count[head]) for count in counts) for head in heads), sum(map(positions, parts)),
                self.state.seconds if main else 0.0, *self.stop.flags()]
        shared = torch.tensor(mine, dtype=torch.float64, device=self.accelerator.device)
        found = self.accelerator.reduce(shared, "sum").tolist()
        totals, (tokens, self.state.agreed, *flags) = found[:len(heads)], found[len(heads):]
        self.asked_to_stop = signals.heard(flags)
        if not any(totals):
            raise DataError(f"step {self.state.step + 1}: rows {self.rows()} have nothing to predict.")
        return dict(zip(heads, totals, strict=True)), tokens

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        most = float(self.recipe.training.learning_rate or 0.0)
        return most * self.factor(self.state) * self.objective.pace(self.state.step)

    def row_numbers(self) -> list[int]:
        """The rows of the current step."""
        size = self.recipe.training.global_batch_size
        return [self.order.at(self.state.step * size + i)[1] for i in range(size)]

    def rows(self) -> str:
        """The first of them, for a message."""
        numbers = self.row_numbers()
        return ", ".join(map(str, numbers[:16])) + (" …" if len(numbers) > 16 else "")

    # ---- what is written ----

    def add(self, name: str, value: float) -> None:
        """Add to the sums since the last log line."""
        self.state.window[name] = self.state.window.get(name, 0.0) + value

    def close_window(self) -> None:
        """Bring the losses since the last time from all processes into the window."""
        if self.pending:
            local = torch.stack([torch.as_tensor(value) for value in self.pending.values()])
            for head, value in zip(self.pending, self.accelerator.reduce(local, "sum").tolist(), strict=True):
                self.add(f"sum/{head}", value)
            self.pending.clear()

    def log(self, rate: float) -> dict[str, float]:
        """Write a train event; return what the progress bar shows. Where every step was skipped, there is none."""
        self.close_window()
        state, window, weight = self.state, self.state.window, self.objective.weights
        if not any(window.get(f"count/{head}") for head in weight):
            state.window = {}
            return {}
        means = {head: window[f"sum/{head}"] / max(1.0, window[f"count/{head}"]) for head in weight}
        loss = sum(weight[head] * mean for head, mean in means.items())
        state.train_loss = loss
        speed = window["tokens"] / max(window["seconds"], 1e-9)
        parts = {head: mean for head, mean in means.items() if window[f"count/{head}"]} if len(means) > 1 else {}
        self.event({
            "event": "train", "step": state.step, "epoch": self.length.epochs(state), "tokens": state.tokens,
            "loss": loss, **parts, "learning_rate": rate,
            **({"grad_norm": window["norm"]} if "norm" in window else {}), "tokens_per_second": speed,
            "data_wait": window.get("waited", 0.0) / max(window["seconds"], 1e-9)})
        if (jump := deviations(loss, state.losses)) is not None:
            log.warning("step %d: the loss jumped to %.4g, %.0f standard deviations above its usual %.4g",
                        state.step, loss, jump, float(np.mean(state.losses)))
            self.event({"event": "spike", "step": state.step, "loss": loss, "deviations": jump})
        state.losses = [*state.losses, loss][-MOST_LOSSES:]
        state.window = {}
        return {"loss": loss, "tokens/s": speed}

    def event(self, event: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and of the trackers."""
        if self.accelerator.is_main_process:
            self.run.log(event)
        if self.recipe.training.report_to:
            figures = {f"{event['event']}/{k}": v for k, v in event.items() if k not in ("event", "step")}
            self.accelerator.log(figures, event["step"])

    def evaluate(self) -> None:
        """Losses and metrics over all validation rows, each seen once, with masks that never change.

        A signal cuts it short: it stays due, and is made anew when the run goes on.
        """
        state, plan = self.state, self.recipe.training
        assert isinstance(plan.micro_batch_size, int)
        # the best of a run is found among evaluations of the same rows
        last = self.over and plan.metric_for_best_model is None
        try:
            found = evaluate(self.accelerator, self.learner, self.sets.validation, self.setup, plan.micro_batch_size,
                             last, self.stop)
        except Interrupted as signalled:
            self.asked_to_stop = signalled.by
            return
        state.evaluation, state.due = found, False
        self.event({"event": "evaluate", "step": state.step, **found})
        state.evaluations.append({"step": state.step, **found})
        state.ended = self.objective.verdict(state.evaluations)
        if plan.metric_for_best_model is None:
            return
        if better(found, state.best, plan, self.objective.heads):
            state.best = {"step": state.step, **found}
            self.best = {name: value.detach().clone() for name, value in self.learner.trained.items()}
        waited = sum(one["step"] > (state.best or found)["step"] for one in state.evaluations)
        if plan.early_stopping_patience is not None and waited >= plan.early_stopping_patience:
            state.ended = f"no better {plan.metric_for_best_model} in {waited} evaluations"

    def save(self) -> None:
        """A checkpoint of what trains, of the optimizer, and of what the loop counts."""
        self.close_window()
        if self.accelerator.is_main_process:
            for name, parameter in self.learner.trained.items():
                if not bool(parameter.isfinite().all()):
                    raise NumberError(f"step {self.state.step}: {name} isn't finite any more; no checkpoint holds it. "
                                      "A lower training.learning_rate may help.")
            self.state.wall = time.monotonic() - self.began
            manifest = {"state": asdict(self.state), "data": self.data, "processes": self.accelerator.num_processes}

            def write(folder: Path) -> None:
                save_file({name: parameter.detach().contiguous() for name, parameter in self.learner.trained.items()},
                          folder / "trained.safetensors")
                with (folder / "optimizer.pt").open("wb") as file:  # by a path, torch doesn't say that the disk is full
                    torch.save(self.optimizer.state_dict(), file)
                if more := self.recipe.tuning.state(self.learner.tuned):
                    save_file({name: value.contiguous() for name, value in more.items()}, folder / "tuning.safetensors")
                if self.best is not None:
                    save_file({name: value.contiguous() for name, value in self.best.items()},
                              folder / "best.safetensors")

            self.run.save(self.state.step, manifest, write, self.recipe.training.save_total_limit)
        self.accelerator.wait_for_everyone()

    def conclude(self, status: str, why: str) -> dict[str, Any]:
        """Write summary.json, and return it."""
        state, recipe = self.state, self.recipe
        parameters = list(self.learner.parameters())
        summary = {
            "status": status, "why": why,
            "weights": "last" if state.best is None else f"best {recipe.training.metric_for_best_model}",
            "best": state.best, "steps": state.step, "skipped_steps": state.skipped, "tokens": state.tokens,
            "train_loss": state.train_loss,
            "evaluation_before": state.before, "evaluation": state.evaluation, **self.sets.facts,
            "parameters": sum(p.numel() for p in parameters),
            "trainable_parameters": sum(p.numel() for name, p in self.learner.trained.items()
                                        if self.learner.wakes.get(name, 0) < max(1, state.step)),
            "wall_seconds": time.monotonic() - self.began,
            "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
            "data_wait": state.waited / max(state.seconds, 1e-9), "peak_memory_bytes": peak_memory(),
            "versions": {name: version(name) for name in ("llmkit", "torch", "transformers", "accelerate", "peft")},
            "processes": self.accelerator.num_processes, "device": str(self.accelerator.device),
            "precision": recipe.training.precision, "adapter": recipe.tuning.adapter,
            "recipe": {
                "what": "Pretrained" if recipe.task is None else "Fine-tuned",
                "backbone": recipe.backbone.pretrained
                or f"{recipe.backbone.family}-{recipe.backbone.size or 'default'}",
                "kind": "objective" if recipe.task is None else "task", "learning": registry.name_of(recipe.learning),
                "tuning": registry.name_of(recipe.tuning), "data": [reader.label for reader in self.settled.train]},
            "output_dir": str(self.run.folder)}
        if recipe.data.on_bad_row == "skip":
            summary["bad_rows"] = sum(len(reader.bad) for reader in self.settled.readers)
        self.run.write("summary.json", json.dumps(summary, indent=1))
        return summary

    def finish(self) -> dict[str, Any]:
        """Leave model/, the model card and the summary."""
        peaks = gather_object([peak_memory()])
        summary: dict[str, Any] | None = None
        if self.accelerator.is_main_process:
            if self.best is not None:
                with torch.no_grad():
                    for name, parameter in self.learner.trained.items():
                        parameter.copy_(self.best[name])
            tuned = self.learner.tuned

            def write(folder: Path) -> None:
                self.recipe.tuning.save(tuned, folder)
                tuned.config.save_pretrained(folder)  # an adapter's too: it knows the labels
                self.setup.tokenizer.save_pretrained(folder)
                self.objective.describe(folder, self.setup)
                if self.stop.by is not None:
                    self.halt(self.stop.by)

            def beside(network: Any) -> Callable[[Path], None]:
                return lambda folder: (network.save_pretrained(folder), self.setup.tokenizer.save_pretrained(folder))[0]

            for name, network in self.objective.others(self.learner.model).items():
                self.run.publish(beside(network), name)
            self.run.publish(write)
            summary = self.conclude("completed", self.state.ended or "the recipe's length is reached")
            summary["peak_memory_bytes"] = sum(peaks)
            self.run.write("README.md", report.card(summary, self.recipe.name, recipes.dump(self.recipe)))
            self.run.write("summary.json", json.dumps(summary, indent=1))
        if self.recipe.training.report_to:
            self.accelerator.end_training()
        return dict(shared(self.accelerator, lambda: summary or {}))


def evaluate(
    accelerator: Accelerator, learner: Learner, sets: Sequence[Any], setup: Setup, size: int, last: bool = True,
    stop: Stopping | None = None,
) -> dict[str, float]:
    """Mean losses by head and the objective's metrics over all rows of `sets`, shared by the processes.

    Interrupted, on all of them, where `stop` heard a signal on one.
    """
    objective = learner.objective
    sums = torch.zeros(2, len(objective.weights), dtype=torch.float64, device=accelerator.device)
    judged: list[Judged] = []
    written = objective.to_write(sum(map(len, sets)), last)
    with torch.inference_mode(), accelerator.autocast():
        for rows, batch in visited(accelerator, learner, sets, setup, size, stop=stop):
            losses, some = learner(batch, "judge") if written is None else (learner(batch), None)
            counts = objective.targets(batch)
            sums += torch.stack([torch.stack([part[head].double() for head in objective.weights])
                                 for part in (losses, counts)])
            if some is not None:
                judged.append((rows, some))
        for rows, batch in (visited(accelerator, learner, sets, setup, size, written, stop) if written else ()):
            judged.append((rows, learner(batch, "predict")))
    if stop is not None and (by := heard(accelerator, stop)) is not None:
        raise Interrupted(by)
    total, count = accelerator.reduce(sums, "sum").tolist()
    if not any(count):
        raise DataError("data.validation: its rows have nothing to predict.")
    means = {head: a / max(1.0, b) for head, a, b in zip(objective.weights, total, count, strict=True)}
    means["loss"] = sum(weight * means[head] for head, weight in objective.weights.items())
    everyone = gather_object(judged) if accelerator.num_processes > 1 else judged
    return objective.figures(means, sorted(everyone, key=lambda one: one[0]), sets, setup)


def heard(accelerator: Accelerator, stop: Stopping) -> signal.Signals | None:
    """The signal that any of the processes got."""
    flags = torch.tensor(stop.flags(), device=accelerator.device)
    return signals.heard(accelerator.reduce(flags, "sum").tolist())


def visited(
    accelerator: Accelerator, learner: Learner, sets: Sequence[Any], setup: Setup, size: int,
    chosen: Sequence[int] | None = None, stop: Stopping | None = None,
) -> Iterator[tuple[list[int], Batch]]:
    """The batches of `sets`, or of their `chosen` rows, that are this process's: (numbers of the rows, batch).

    Where `stop` heard a signal, there are no more.

    The learner is without dropout while they are gone through.
    """
    drawn, long = Drawn(sets, seed=0), lengths(sets)
    some = range(len(drawn)) if chosen is None else chosen
    places = in_order(len(some), size, accelerator.process_index, accelerator.num_processes,
                      None if long is None else [long[row] for row in some])
    keys = [[(nth, some[place]) for nth, place in batch] for batch in places]
    was = learner.training
    learner.eval()
    batches = load(drawn, keys, lambda rows: learner.objective.collate(rows, setup.tokenizer))
    for rows, batch in zip(keys, batches, strict=True):
        if stop is not None and stop.by is not None:
            break
        yield [row for _, row in rows], {name: part.to(accelerator.device) for name, part in batch.items()}
    learner.train(was)


def refer(
    accelerator: Accelerator, learner: Learner, sets: Sequence[Any], setup: Setup, size: int,
    chosen: Sequence[int] | None = None,
) -> None:
    """Add to the rows of `sets`, or the `chosen` ones, as `reference`, what the untuned model says of each: once."""
    with torch.inference_mode(), accelerator.autocast():
        found = [(rows, learner(batch, "refer"))
                 for rows, batch in visited(accelerator, learner, sets, setup, size, chosen)]
    everyone = gather_object(found) if accelerator.num_processes > 1 else found
    said = {row: one for rows, some in everyone for row, one in zip(rows, some, strict=True)}
    places = [(part, row) for part in sets for row in range(len(part))]
    for number, one in said.items():
        part, row = places[number]
        part.features[row]["reference"] = np.array(one, dtype=np.float32)


def refer_all(
    accelerator: Accelerator, learner: Learner, sets: Sets, setup: Setup, plan: recipes.Training, order: Order,
    steps: int | None,
) -> None:
    """The same for the rows that a run will see, as far as its length is known, and for its validation rows."""
    assert isinstance(plan.micro_batch_size, int)
    count = sum(map(len, sets.train))
    seen = range(count) if steps is None or steps * plan.global_batch_size >= 4 * count else sorted(
        {order.at(position)[1] for position in range(steps * plan.global_batch_size)})
    held = sum(map(len, sets.validation))
    if accelerator.is_main_process:
        log.info("what the untuned model says of %s rows%s is computed first", f"{len(seen):,}",
                 f" and {held:,} held out" if held else "")
    refer(accelerator, learner, sets.train, setup, plan.micro_batch_size, seen)
    if held:
        refer(accelerator, learner, sets.validation, setup, plan.micro_batch_size)


def with_floors(sets: Sets, learning: Objective) -> Sets:
    """The sets, and among their facts what the validation rows' metrics are without a language model."""
    if not isinstance(learning, Task) or not sets.validation:
        return sets
    learned, held = ([row for part in parts if isinstance(part, Encoded) for row in part.rows]
                     for parts in (sets.train, sets.validation))
    return replace(sets, facts={**sets.facts, "floors": learning.floors(learned, held)})


def lengths(sets: Sequence[Any]) -> list[int] | None:
    """How long each row is, where that is known; rows of text are as long as can be."""
    if not all(isinstance(part, Encoded) for part in sets):
        return None
    return [part.length(row) for part in sets for row in range(len(part))]


# ---- setting up ---------------------------------------------------------------------------------------------------


def accelerate(
    precision: str, log_with: Sequence[str], folder: Path, idle: bool = False, tf32: bool = False,
) -> Accelerator:
    """The accelerator for this process; one process of a launch that started alone is an error."""
    if torch.cuda.is_available():  # a CPU would take the same word for bf16
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    # accelerate keeps the first run's precision for the whole process; each run has its own
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision, log_with=list(log_with) or None, project_dir=folder,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)] if idle else None)
    if accelerator.num_processes != world():
        raise RequestError(f"{world()} processes were asked for and {accelerator.num_processes} started.")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise RequestError(f"{accelerator.distributed_type.value} isn't supported yet; use plain data parallelism.")
    return accelerator


def world() -> int:
    """Processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def idles(settled: Settled) -> bool:
    """Whether some trained weights may have no part in a step's loss."""
    return bool(settled.recipe.learning.idle or (settled.recipe.task is not None and settled.family.idle))


def as_before(settled: Settled, run: Run) -> Settled:
    """The same with the micro-batches that an earlier run in this folder had: bit for bit, dropout depends on them."""
    path, plan = run.folder / "recipe.yaml", settled.recipe.training
    if "micro_batch_size" not in settled.chosen or not path.is_file():
        return settled
    size = recipes.load(path).training.micro_batch_size
    if not isinstance(size, int) or (plan.global_batch_size // world()) % size:
        return settled
    return replace(
        settled, recipe=replace(settled.recipe, training=replace(plan, micro_batch_size=size)),
        chosen={**settled.chosen, "micro_batch_size": "as many as before"})


def shared(accelerator: Accelerator, make: Callable[[], Any]) -> Any:
    """What the main process makes, on every process."""
    made = [make() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(made)
    return made[0]


def pick_up(run: Run, asked: Recipe, recipe: Recipe, resume: str) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """(checkpoint to go on from, summary of a run that is finished), as `resume` says; both None to start afresh."""
    if resume not in ("auto", "must", "never"):
        return verify(named(Path(resume), run)), None
    if resume == "never" and run.started():
        raise PlaceError(f"{run.folder}: holds a run already; choose another --output-dir, or --resume auto.")
    if not run.started():
        if resume == "must":
            raise CheckpointError(f"{run.folder}: there is nothing to resume.")
        return None, None
    differ = run.compare(recipe)
    if asked.training.micro_batch_size == "auto":
        differ.pop("training.micro_batch_size", None)
    if differ.get("training.compile") == (False, "auto"):  # left by a version that knew no such field
        del differ["training.compile"]
    longer = bool(differ) and is_longer(recipe, differ)
    if differ and not longer:
        what = "; ".join(f"{name} is {ours}, there {theirs}" for name, (ours, theirs) in differ.items())
        raise CheckpointError(f"{run.folder} holds another recipe's run ({what}). Choose another --output-dir.")
    done = run.finished()
    if done is not None and not longer:
        log.info("%s: this run is complete after %d steps; nothing to do", run.folder, done["steps"])
        return None, done
    checkpoint = run.newest(log.warning)
    if checkpoint is None and resume == "must":
        raise CheckpointError(f"{run.folder}: no checkpoint was saved yet; there is nothing to resume.")
    if checkpoint is None:
        log.info("no checkpoint was saved yet: starting afresh")
    else:
        log.info("going on from %s", checkpoint.folder)
    return checkpoint, None


def named(path: Path, run: Run) -> Path:
    """The checkpoint that --resume PATH means: itself, or the newest of a run's folder."""
    if (path / "checkpoints").is_dir():
        found = Run(path).newest(log.warning)
        if found is not None:
            return found.folder
    if not path.is_dir():
        raise CheckpointError(f"--resume {path}: there is no such checkpoint.")
    return path


def is_longer(recipe: Recipe, differ: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether a recipe differs only by a greater length that its schedule doesn't depend on."""
    plan = recipe.training
    free = plan.lr_scheduler_type in SCHEDULES_WITHOUT_END and (plan.warmup_steps >= 1 or not plan.warmup_steps)
    free = free and not recipe.tuning.counted
    return free and all(
        name.removeprefix("training.") in LENGTHS and ours is not None and theirs is not None and ours > theirs
        for name, (ours, theirs) in differ.items())


def learn(
    settled: Settled, accelerator: Accelerator, sets: Sets, setup: Setup, run: Run, refers: bool = True,
) -> Learner:
    """The model as the recipe wants it tuned, with its objective."""
    recipe, tuning, tokenizer = settled.recipe, settled.recipe.tuning, setup.tokenizer
    net = network(settled, tokenizer, dict(sets.facts))
    order = Order([len(examples) for examples in sets.train], weights(recipe), recipe.seed)
    rows, steps = order.epoch_rows, Length(recipe.training, order.epoch_rows).steps
    if isinstance(recipe.learning, Task) and recipe.learning.reference and refers:
        untuned = Learner(net.model, recipe.learning, settled.family).to(accelerator.device)
        refer_all(accelerator, untuned, sets, setup, recipe.training, order, steps)
    base = net.base
    if tuning.adapter and base is None:  # an adapter without its base is worth nothing
        base = str((run.folder / "base").resolve())
        if accelerator.is_main_process:
            net.model.save_pretrained(base)
            tokenizer.save_pretrained(base)
    if recipe.training.gradient_checkpointing:
        net.model.gradient_checkpointing_enable(  # type: ignore[no-untyped-call]
            gradient_checkpointing_kwargs={"use_reentrant": False})
    # layers that are computed anew in the backward pass wouldn't find the batch that they are of
    unpadded = shortcuts.on("unpadded") and settled.family.unpads and not recipe.training.gradient_checkpointing
    setting = Setting(
        settled.family, settled.head, net.new, base or "", recipe.training.gradient_checkpointing, unpadded=unpadded,
        packed=recipe.data.packing == "documents" or recipe.learning.masks,
        steps=steps, epoch=rows / recipe.training.global_batch_size, tokenizer=tokenizer)
    tuned = tuning.apply(net.model, setting)
    if recipe.training.compile:
        compile_layers(net.model, settled.family)
    elif unpadded:
        unpad(net.model, settled.family)
    rates, wakes = tuning.rates(tuned, setting), tuning.wakes(tuned, setting)
    tensors = dict(tuned.named_parameters())
    whole = recipe.learning.assemble(tuned, settled.family, tokenizer, None)
    learner = Learner(whole, recipe.learning, settled.family, net.new)
    if shortcuts.on("fused_gelu"):
        shortcuts.fuse(learner)
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    learner.rates = {names[id(tensors[name])]: rate for name, rate in rates.items()}
    learner.wakes = {names[id(tensors[name])]: step for name, step in wakes.items()}
    last = max(wakes.values(), default=0)
    if accelerator.is_main_process and steps is not None and last >= steps:
        log.warning("the last part would begin to train after step %d; the run ends after step %d", last, steps)
    return learner


def bring_back(start: Checkpoint, learner: Learner, optimizer: Any) -> None:
    """Put a checkpoint's weights and optimizer state where they were."""
    weights, moments = start.file("trained.safetensors"), start.file("optimizer.pt")
    if weights is None or moments is None:
        raise CheckpointError(f"{start.folder}: its manifest names no trained.safetensors and optimizer.pt.")
    saved, wanted = tensors(weights), learner.trained
    if saved.keys() != wanted.keys() or any(saved[name].shape != wanted[name].shape for name in saved):
        raise CheckpointError(f"{start.folder}: its weights aren't those of this recipe's model.")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])
    try:
        optimizer.load_state_dict(torch.load(moments, weights_only=True, map_location="cpu"))
    except (UnpicklingError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{moments}: isn't the state of this optimizer: {said}") from error


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint's safetensors hold; CheckpointError where it is something else."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: holds no tensors: {' '.join(str(error).split())[:200]}") from error


def kept(start: Checkpoint) -> dict[str, torch.Tensor]:
    """What the tuning method keeps beside what trains."""
    path = start.file("tuning.safetensors")
    return {} if path is None else tensors(path)


def best_of(start: Checkpoint) -> dict[str, torch.Tensor] | None:
    """The best weights up to a checkpoint, where it has them."""
    path = start.file("best.safetensors")
    return None if path is None else tensors(path)


def better(
    found: Mapping[str, float], best: Mapping[str, float] | None, plan: recipes.Training, losses: Sequence[str] = (),
) -> bool:
    """Whether an evaluation is the best so far; RequestError where it has no such figure."""
    name = str(plan.metric_for_best_model)
    if name not in found:
        raise RequestError(f"training.metric_for_best_model: the evaluation has no {name!r}.{nearest(name, found)}")
    more = plan.greater_is_better
    if more is None:
        more = name not in losses and more_is_better(name)
    return best is None or (found[name] > best[name] if more else found[name] < best[name])


def restored(start: Checkpoint, data: Mapping[str, str], processes: int) -> State:
    """The loop's counts from a checkpoint; CheckpointError where the data isn't what it was."""
    changed = [label for label, fingerprint in data.items() if start.manifest["data"].get(label) != fingerprint]
    if changed:
        raise CheckpointError(f"{start.folder}: the data has changed since: {', '.join(changed)}. "
                              "Choose another --output-dir.")
    if start.manifest["processes"] != processes:
        log.info("%d processes, %d before: the same rows, other dropout", processes, start.manifest["processes"])
    try:
        return State(**start.state)
    except TypeError as error:
        raise CheckpointError(f"{start.folder}: was written by another version of llmkit.") from error


def adamw(learner: Learner, training: recipes.Training, vectors: Sequence[str] = ()) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); matrices decay, biases and norms don't; new heads have a rate of their own."""
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in learner.trained.items():
        matrix = parameter.dim() >= 2 and not any(part in name for part in vectors)
        groups.setdefault((learner.is_new(name), matrix, learner.rates.get(name, 1.0)), []).append(parameter)
    rates = {False: training.learning_rate or 0.0, True: training.head_learning_rate or 0.0}
    return torch.optim.AdamW(
        [{"params": parameters, "initial_lr": rates[new] * factor,
          "weight_decay": training.weight_decay if matrix else 0.0}
         for (new, matrix, factor), parameters in groups.items()], lr=training.learning_rate or 0.0,
        betas=(training.adam_beta1, training.adam_beta2), eps=training.adam_epsilon, fused=True)


class Length:
    """When a run ends, and how far it is."""

    def __init__(self, training: recipes.Training, rows: int) -> None:
        self.training, self.rows = training, rows
        if training.num_train_epochs is not None:
            self.steps: int | None = max(1, math.ceil(training.num_train_epochs * rows / training.global_batch_size))
        else:
            self.steps = training.max_steps

    def share(self, state: State) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.steps is not None:
            return min(1.0, state.step / self.steps)
        if self.training.max_tokens is not None:
            return min(1.0, state.tokens / self.training.max_tokens)
        return min(1.0, state.agreed / (60 * (self.training.max_minutes or 1)))

    def done(self, state: State) -> bool:
        """Whether the run is over."""
        return self.share(state) >= 1.0

    def epochs(self, state: State) -> float:
        """Passes over the training rows."""
        return state.step * self.training.global_batch_size / self.rows


def schedule(training: recipes.Training, length: Length) -> Callable[[State], float]:
    """The factor on the learning rate for the next step: transformers' own schedule, as a function of the state.

    Runs that end by tokens or minutes don't know their number of steps: they go through the schedule by their share.
    """
    from transformers import get_scheduler

    total = length.steps or 10_000
    warmup = training.warmup_steps if training.warmup_steps >= 1 else training.warmup_steps * total
    clockwise = length.steps is None and training.warmup_steps >= 1
    anchor = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=max(training.learning_rate or 0.0, 1e-12))
    try:
        made: Any = get_scheduler(
            training.lr_scheduler_type, anchor, num_warmup_steps=0 if clockwise else int(warmup),
            num_training_steps=total, scheduler_specific_kwargs=dict(training.lr_scheduler_kwargs) or None)
    except (TypeError, ValueError) as error:
        raise RequestError(f"training.lr_scheduler_kwargs: {error}") from error
    factor = made.lr_lambdas[0]
    if length.steps is not None:
        return lambda state: float(factor(state.step))
    rise = warmup if clockwise else 0
    return lambda state: float(factor(int(length.share(state) * total))) * min(1.0, (state.step + 1) / max(1, rise))


def weights(recipe: Recipe) -> list[float] | None:
    """The weights of the sources, where they have some."""
    given = [source.weight for source in recipe.data.train]
    return None if None in given else [float(weight) for weight in given if weight is not None]


def mixed(seed: int, step: int, process: int) -> int:
    """One seed from three numbers; near numbers give seeds that have nothing in common."""
    return int(np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0] >> 1)


def deviations(loss: float, before: Sequence[float]) -> float | None:
    """How many standard deviations a loss is above those before it, where that is a jump; None where it isn't.

    Six over the last 128, as OLMo's trainer counts a step as an outlier.
    """
    if len(before) < FEWEST_LOSSES:
        return None
    above = loss - float(np.mean(before))
    spread = max(float(np.std(before)), 1e-3 * abs(float(np.mean(before))), 1e-12)
    return above / spread if above > JUMP * spread else None


def enough_room(
    run: Run, learner: Learner, length: Length, state: State, plan: recipes.Training, adapter: bool
) -> None:
    """PlaceError where the disk can't hold the checkpoints that are to come, and the model."""
    trained = sum(p.numel() * p.element_size() for p in learner.trained.values())
    whole = trained if adapter else sum(p.numel() * p.element_size() for p in learner.parameters())
    size = trained * (3 if plan.metric_for_best_model is None else 4)  # with AdamW's two moments, and the best weights
    saves = None if length.steps is None else math.ceil((length.steps - state.step) / plan.save_steps)
    run.room(size, whole, saves, plan.save_total_limit)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; on a GPU, with what it held there."""
    unit = 1 if sys.platform == "darwin" else 1024
    held = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + held


def list_bad_rows(settled: Settled, run: Run) -> None:
    """Say how many rows were left out, and list all of them in bad_rows.txt."""
    bad = [what for reader in settled.readers for what in reader.bad]
    if bad:
        log.warning("%s bad rows are left out, and listed in %s; the first: %s", f"{len(bad):,}",
                    run.folder / "bad_rows.txt", bad[0])
        run.write("bad_rows.txt", "".join(f"{what}\n" for what in bad))


def describe(settled: Settled, sets: Sets, learner: Learner, start: Checkpoint | None) -> None:
    """Say what became of every `auto`, how big the model is, and what it learns from."""
    recipe, plan = settled.recipe, settled.recipe.training
    whole = sum(p.numel() for p in learner.parameters())
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    log.info("%s: %s with %s, %s of %s parameters train%s", recipe.name, registry.name_of(recipe.learning),
             registry.name_of(recipe.tuning), f"{trained:,}", f"{whole:,}",
             f" ({recipe.tuning.describe()})" if recipe.tuning.describe() else "")
    for note in (*(note for reader in settled.readers for note in reader.notes), *sets.notes):
        log.info("%s", note)
    log.info("packing %s, rows of %s tokens, %s rows a step in micro-batches of %s, %s", recipe.data.packing,
             recipe.data.max_length, plan.global_batch_size, plan.micro_batch_size, plan.precision)
    for name, why in settled.chosen.items():
        log.info("%s %s: %s", name, str(getattr(plan, name)).lower(), why)
    if start is not None:
        log.info("resumed after step %d", start.step)
