"""One optimizer step: the micro-batches' losses and gradients, divided once by what the whole step predicts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from llmkit.backbones.kernels import shortcuts
from llmkit.backbones.kernels.privates import leaves_steps_out, left_out
from llmkit.backbones.shared.routers import Load
from llmkit.data.batches import Batch, Drawn, Micro, load, positions
from llmkit.planning.choices import divisors
from llmkit.system import devices, signals
from llmkit.system.devices import here, moved, precise
from llmkit.system.errors import DataError, LlmkitError, NumberError, RequestError, device_full
from llmkit.system.machine import size
from llmkit.system.plural import many
from llmkit.training.evaluate import lengths
from llmkit.training.learner import Collator
from llmkit.training.log import Log
from llmkit.training.looking.crowding import Crowding
from llmkit.training.session import Session
from llmkit.training.spread.processes import mixed

log = logging.getLogger("llmkit")

MOST_SKIPPED = 20
"""Steps in a row that may be skipped before a run gives up."""


def as_told(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of a loader; an error of llmkit that a worker met is told in its own words, not in torch's around it."""
    try:
        yield from batches
    except LlmkitError as error:
        _, mark, said = str(error).rpartition(f"\n{type(error).__module__}.{type(error).__qualname__}: ")
        if not mark:
            raise
        raise type(error)(said.rstrip("\n")) from error


class Stepper:
    """Makes the steps of a session, one at a time."""

    def __init__(self, session: Session, journal: Log) -> None:
        self.session, self.journal = session, journal
        alone = session.accelerator.device.type == "cpu" and session.accelerator.num_processes == 1
        self.crowding = Crowding(alone and session.learner.compiled is None)

    def batches(self) -> Iterator[Batch]:
        """The micro-batches of this process, from the current step on; they are in the host's memory."""
        session = self.session
        recipe, accelerator, sets = session.recipe, session.accelerator, session.sets.train
        micro = Micro(session.order, recipe.training.global_batch_size, session.micro_batch_size,
                      accelerator.process_index, accelerator.num_processes, session.state.step, lengths(sets))
        loader = load(Drawn(sets, recipe.seed), micro, Collator(session.objective, session.setup.tokenizer),
                      int(recipe.training.dataloader_num_workers), pin=accelerator.device.type == "cuda")
        return as_told(loader)

    def step(self, batches: Iterator[Batch]) -> None:
        """One optimizer step.

        The loss is divided once, by the targets of all micro-batches on all processes: splitting changes nothing.
        What is counted is counted before it is on the device, which the host waits for once a step: for loss and norm,
        and after the optimizer's step is on its way.
        """
        parts = self.taken(batches)
        totals, tokens = self.agree(parts)
        with moved(parts, self.session.accelerator.device) as there, self.crowding:
            self.learn(there, totals, tokens)

    def learn(self, parts: Sequence[Batch], totals: Mapping[str, float], tokens: float) -> None:
        """The step's losses, their gradients, and the optimizer's part."""
        session, journal, room = self.session, self.journal, self.reserved()
        plan, state, accelerator = session.recipe.training, session.state, session.accelerator
        self.reseed()
        for group in session.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * session.factor(state) * session.objective.pace(state.step)
        session.wrapped.train()
        # what gradient checkpointing computes again in the backward pass, it computes without the shortcuts
        with nullcontext() if plan.gradient_checkpointing else shortcuts.step(accelerator.device.type):
            sums, load = (self.compared(parts, totals), None) if session.objective.whole else self.added(parts, totals)
        journal.add("tokens", tokens)
        state.tokens += int(tokens)
        self.let_wait()
        clipped = session.spread.clip(session.learner.trained.values(), plan.max_grad_norm or math.inf)
        summed = session.everywhere(torch.stack([*sums.values()]).sum())
        numbers = torch.stack([precise(torch.as_tensor(clipped)).to(summed), summed])
        del room
        ahead = self.moved_ahead(numbers)
        norm, loss = numbers.tolist()
        if not math.isfinite(loss) or (not math.isfinite(norm) and accelerator.scaler is None):
            if accelerator.scaler is not None and not ahead:
                accelerator.scaler.update()  # which has looked at this step's gradients, and looks once a step
            self.not_finite(f"the loss is {loss}" if math.isfinite(norm) else f"the gradient is {norm}")
            return
        if not ahead:
            self.move()
        if math.isfinite(norm):
            state.skipped_last = 0
            session.recipe.tuning.after_step(session.learner.tuned, state.step + 1)
        else:  # fp16: the scaler left the step out, and tries a smaller scale
            self.count_skipped(f"the gradient is {norm} at the scale of fp16", "training.precision: fp32 may help")
        session.optimizer.zero_grad()
        for head, total in totals.items():
            journal.pending[head] = journal.pending.get(head, 0.0) + sums[head]
            journal.add(f"count/{head}", total)
        if load is not None:
            journal.routed(load)
        if math.isfinite(norm):
            state.window["norm"] = norm

    # ---- its parts, in their order ----

    def reseed(self) -> None:
        """Dropout is a function of seed, step and process: nothing of it needs to be saved."""
        session = self.session
        torch.manual_seed(mixed(session.recipe.seed, session.state.step, session.accelerator.process_index))

    def taken(self, batches: Iterator[Batch]) -> list[Batch]:
        """The step's micro-batches of this process; how long they were waited for is counted."""
        session, state = self.session, self.session.state
        rows = session.recipe.training.global_batch_size // session.accelerator.num_processes
        count = rows // session.micro_batch_size
        began = time.monotonic()
        parts = [next(batches) for _ in range(count)]
        self.journal.add("waited", time.monotonic() - began)
        state.waited += time.monotonic() - began
        if session.objective.turn(state.step) is not None:
            parts = [{**part, "step": torch.tensor(state.step)} for part in parts]
        return parts

    def kept(self) -> int:
        """Bytes that the optimizer keeps beside the weights."""
        session = self.session
        return int(session.recipe.rule.states * sum(here(p).nbytes for p in session.learner.trained.values()))

    def reserved(self) -> torch.Tensor | None:
        """On a GPU, in the first step: the memory that its end will need, so that what doesn't fit shows before it.

        A forward or backward pass can be made again in smaller parts; an optimizer's step can't.
        """
        device = self.session.accelerator.device
        if device.type == "cpu" or self.session.state.step > 0:
            return None
        return torch.empty(self.kept(), dtype=torch.uint8, device=device)

    def moved_ahead(self, numbers: torch.Tensor) -> bool:
        """On a GPU: whether the optimizer's step is on its way before the host knows the norm and the loss, `numbers`.

        Its kernel leaves the step out where one of them isn't finite. An optimizer whose kernel can't is asked later.
        """
        session = self.session
        inner = session.optimizer.optimizer
        if numbers.device.type == "cpu" or not leaves_steps_out(inner):
            return False
        with nullcontext() if session.accelerator.scaler is not None else left_out(inner, ~numbers.isfinite().all()):
            self.move()  # in fp16 the scaler says itself what is left out
        return True

    def move(self) -> None:
        """The optimizer's step. RequestError where memory ends in it: made again, some weights would move twice."""
        try:
            self.session.optimizer.step()
        except RuntimeError as error:
            if not device_full(error):
                raise
            session = self.session
            raise RequestError(
                f"step {session.state.step + 1}: what the optimizer keeps ({size(self.kept())}) doesn't fit in this "
                "device's memory. Some weights have moved already, so the step isn't tried again; no checkpoint holds "
                "it. Use optimizer: adamw_8bit or adafactor, tune fewer weights (lora), or a smaller micro_batch_size."
            ) from error

    def let_wait(self) -> None:
        """Take the gradient from what doesn't learn in this step: another network's turn, layers that sleep."""
        state, learner = self.session.state, self.session.learner
        turn, wakes = self.session.objective.turn(state.step), learner.wakes
        if turn is None and not wakes:
            return
        for name, parameter in learner.trained.items():
            if (turn is not None and not name.startswith(f"model.{turn}")) or wakes.get(name, 0) > state.step:
                parameter.grad = None  # waits: AdamW moves what has a gradient, be it 0

    def agree(self, parts: Sequence[Batch]) -> tuple[dict[str, float], float]:
        """(targets by head, tokens) of a step over all processes; on the way they share signals, the clock, and whether
        a checkpoint has been written.
        """
        session = self.session
        heads = list(session.objective.weights)
        counts = [session.objective.targets(part) for part in parts]
        main = session.accelerator.is_main_process
        mine = [*(sum(float(count[head]) for count in counts) for head in heads), sum(map(positions, parts)),
                session.state.seconds if main else 0.0, float(main and session.aside.over),
                *session.stop.flags()]
        found = session.everywhere(torch.tensor(mine, dtype=torch.float64)).tolist()
        totals, (tokens, session.state.agreed, written, *flags) = found[:len(heads)], found[len(heads):]
        session.written = bool(written)
        session.asked_to_stop = signals.heard(flags)
        if not any(totals):
            raise DataError(f"step {session.state.step + 1}: rows {session.rows_in_words()} have nothing to predict.")
        return dict(zip(heads, totals, strict=True)), tokens

    def added(
        self, parts: Sequence[Batch], totals: Mapping[str, float],
    ) -> tuple[dict[str, torch.Tensor], Load | None]:
        """The losses of the step's micro-batches, one after the other, and their gradients; what routers did."""
        session = self.session
        accelerator, weight = session.accelerator, session.objective.weights
        seen = dict.fromkeys(weight, precise(torch.zeros((), device=accelerator.device)))
        whole, loads = self.routed(parts), list[Load]()
        for i, part in enumerate(parts):
            with nullcontext() if i + 1 == len(parts) else session.spread.apart(session.wrapped):
                sums = session.wrapped(part)
                loss = torch.stack([weight[head] * sums[head] / max(1.0, totals[head]) for head in weight]).sum()
                loss = loss + self.uneven(whole, loads)
                if i + 1 == len(parts):
                    loss = loss + self.penalty()
                accelerator.backward(loss * accelerator.num_processes)  # DDP takes the mean over processes
            seen = {head: seen[head] + precise(sums[head].detach()) for head in weight}
        return seen, whole or self.everyones(loads)

    def routed(self, parts: Sequence[Batch]) -> Load | None:
        """What routers do with the whole step, before anything is learned from it; None where that isn't needed.

        The balancing loss multiplies two means over all tokens of a step, so where these lie in several micro-batches
        or processes, all go through the model once more: without gradients, and with the same dropout.
        """
        session = self.session
        routers = session.learner.routers
        if routers is None or not routers.coefficient or len(parts) * session.accelerator.num_processes == 1:
            return None
        loads = list[Load]()
        with torch.no_grad():
            for part in parts:
                session.learner(part)
                self.keep_load(loads)
        self.reseed()
        return self.everyones(loads)

    def keep_load(self, loads: list[Load]) -> None:
        """Add what routers did with the last batch to the loads of a step."""
        if (load := self.session.learner.load) is not None:
            loads.append(load.kept())

    def everyones(self, loads: Sequence[Load]) -> Load | None:
        """The sum of loads, over all processes; None where there are none."""
        if not loads:
            return None
        mine = sum(loads[1:], loads[0])
        return mine.of_flat(self.session.everywhere(mine.flat()))

    def uneven(self, whole: Load | None, loads: list[Load]) -> torch.Tensor | float:
        """What the last batch adds to the step's loss for the unevenness of its experts' loads; these are kept."""
        learner = self.session.learner
        self.keep_load(loads)
        if learner.load is None or learner.routers is None or not learner.routers.coefficient:
            return 0.0
        return learner.routers.coefficient * learner.load.balance(whole)

    def compared(self, parts: Sequence[Batch], totals: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """The step's losses and gradients where each row is compared with every other, on all processes (GradCache).

        Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup": represent every row
        without a graph, take the gradient of the loss at the representations, then go through the model once more, a
        micro-batch at a time and with the same dropout, to bring that gradient to the weights.
        """
        session = self.session
        accelerator, weight, rank = session.accelerator, session.objective.weights, session.accelerator.process_index
        seeds = [mixed(session.recipe.seed, session.state.step, rank + i * accelerator.num_processes)
                 for i in range(len(parts))]
        mine = []
        for part, seed in zip(parts, seeds, strict=True):
            torch.manual_seed(seed)
            with torch.no_grad():
                mine.append(session.learner(part, "represent").float())
        everyone = accelerator.gather(torch.cat(mine)).detach().requires_grad_()
        sums = session.objective.compare(everyone)
        loss = torch.stack([weight[head] * sums[head] / max(1.0, totals[head]) for head in weight]).sum()
        (slope,) = torch.autograd.grad(loss, everyone)
        own = slope.chunk(accelerator.num_processes)[rank].split([len(rows) for rows in mine])
        for i, (part, seed) in enumerate(zip(parts, seeds, strict=True)):
            torch.manual_seed(seed)
            with nullcontext() if i + 1 == len(parts) else session.spread.apart(session.wrapped):
                again = session.wrapped(part, "represent").float()
                towards = (again * own[i]).sum()
                if i + 1 == len(parts):
                    towards = towards + self.penalty()
                accelerator.backward(towards * accelerator.num_processes)
        # every process saw all rows: the sum over processes is the whole once
        return {head: precise(sums[head].detach()) / accelerator.num_processes for head in weight}

    def penalty(self) -> torch.Tensor | float:
        """What the tuning method adds to the loss of a step: the share of this process."""
        session = self.session
        whole = session.recipe.tuning.penalty(session.learner.tuned)
        return 0.0 if whole is None else whole / session.accelerator.num_processes

    def not_finite(self, what: str) -> None:
        """Skip the step, where the recipe says so; else, or where all steps are so, NumberError."""
        session = self.session
        if session.recipe.training.on_nonfinite == "stop":
            where = f"step {session.state.step + 1}: {what}, in rows {session.rows_in_words()}"
            raise NumberError(f"{where}; no checkpoint holds it. A lower training.learning_rate, training.precision: "
                              "fp32 or training.on_nonfinite: skip may help.")
        self.count_skipped(what)
        session.optimizer.zero_grad()

    def count_skipped(self, what: str, cure: str = "") -> None:
        """Say and count a step that isn't made; NumberError where so many in a row aren't."""
        session = self.session
        state, step = session.state, session.state.step + 1
        where = f"step {step}: {what}, in rows {session.rows_in_words()}"
        state.skipped += 1
        state.skipped_last += 1
        if state.skipped_last >= MOST_SKIPPED:
            raise NumberError(f"{where}: {state.skipped_last} steps in a row were skipped; no checkpoint holds them."
                              f"{f' {cure}.' if cure else ''}")
        log.warning("%s; skipped, %d so far", where, state.skipped)
        self.journal.event({"event": "skipped", "step": step, "why": what, "rows": session.row_numbers()})

    def tried(self, batches: Iterator[Batch]) -> bool:
        """Do a step; False where a GPU's memory is too small for it: then nothing of it stays."""
        pending = dict(self.journal.pending)
        try:
            self.step(batches)
            return True
        except RuntimeError as error:  # its traceback holds the step's tensors: both go here
            if not device_full(error):
                raise
        self.session.optimizer.zero_grad()
        self.journal.pending = pending
        devices.release()
        return False

    def smaller(self) -> Iterator[Batch]:
        """The batches from the current step on in smaller micro-batches, as a GPU's memory was too small for it.

        Neither rows nor losses change by it. RequestError where the recipe says how large micro-batches are, where they
        can't be smaller, and where other processes are in the middle of the same step.
        """
        session = self.session
        plan, rows = session.recipe.training, session.micro_batch_size
        if "micro_batch_size" not in session.settled.chosen or rows == 1 or session.accelerator.num_processes > 1:
            raise RequestError(
                f"training.micro_batch_size: this device's memory doesn't hold {many(rows, 'row')} of "
                f"{session.recipe.data.max_length} tokens. Use fewer, gradient_checkpointing, or tune fewer weights.")
        less = max(divisors(plan.global_batch_size, rows // 2))
        log.warning("step %d: micro-batches of %d rows don't fit in memory; going on with %d, which changes no loss",
                    session.state.step + 1, rows, less)
        recipe = replace(session.recipe, training=replace(plan, micro_batch_size=less))
        session.settled = replace(session.settled, recipe=recipe)
        session.run.write_recipe(session.recipe)
        return self.batches()
