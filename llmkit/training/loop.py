"""The step loop: what happens in a step, and in what order."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save_file
from torch import nn

from llmkit import recipe as recipes
from llmkit.backbones.kernels import shortcuts
from llmkit.data.batches import Batch, Drawn, Micro, Order, load, positions
from llmkit.objectives.base import Sets, Setup
from llmkit.planning.choices import divisors
from llmkit.planning.settle import Settled
from llmkit.recipe import registry
from llmkit.system import report, signals
from llmkit.system.errors import DataError, NumberError, RequestError
from llmkit.system.signals import Stopping
from llmkit.training.evaluate import evaluate, lengths
from llmkit.training.finish import better, peak_memory
from llmkit.training.learner import Learner
from llmkit.training.log import MOST_LOSSES, deviations
from llmkit.training.processes import mixed, shared
from llmkit.training.run_folder import Run
from llmkit.training.schedule import Length, schedule, weights
from llmkit.training.state import Interrupted, State

log = logging.getLogger("llmkit")

MOST_SKIPPED = 20
"""Steps in a row that may be skipped before a run gives up."""


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
