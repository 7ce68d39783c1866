"""A model's texts written together: each step writes a token of every text, and texts come and go between steps.

A text that comes is read (in parts, so that the others don't wait for a long one), and its keys and values are put
into a row of a table that all texts share, each row filled to its own length. Every step writes one place further in
each row, and a mask hides what stands behind it. A text that ends, or whose reader went away, frees its row at once:
the last row moves there, so that the rows in use stand together and nothing is copied to attend to them.

transformers' own continuous batching (5.23) was measured on a CPU first: 16 texts together were written at 0.8 times
the rate of one alone, where this gives several times that rate, and it knows neither a seed nor min_p nor a repetition
penalty for each text.
"""

from __future__ import annotations

import inspect
from collections import deque
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llmkit.backbones.kernels.eight_bits import EightBit
from llmkit.backbones.kernels.packed_decoder import Decoder, States
from llmkit.inference.writing.completion import scored
from llmkit.inference.writing.context import base_of, ids_of
from llmkit.inference.writing.memory import PrefixMemory
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.sampling import Choosing
from llmkit.inference.writing.text import WrittenText
from llmkit.inference.writing.token_loop import step
from llmkit.serving.jobs import NOT_FINITE, End, Job, Piece, Wish
from llmkit.serving.protocol import FULL
from llmkit.serving.table import StateTable
from llmkit.system import devices
from llmkit.system.devices import sent
from llmkit.system.errors import DeviceFullError, LlmkitError, NumberError, RequestError, device_full
from llmkit.system.report import log

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmkit.models import Opened

READ = 256
"""Tokens of prompts that are read between two steps."""
KEPT = 128 << 20
"""Bytes of keys and values that are kept of texts that have ended, for prompts that begin as these did."""
WORTH = 16
"""Tokens that a prompt must share with them."""


class PromptReading:
    """A job whose prompt is being read."""

    def __init__(self, job: Job, cache: DynamicCache | States, done: int = 0) -> None:
        self.job, self.cache = job, cache
        self.done = done
        """Tokens that are read."""


class Row:
    """A text of a job while it is written."""

    def __init__(self, job: Job, number: int, tokenizer: PreTrainedTokenizerBase) -> None:
        wish = job.wish
        self.job, self.number = job, number
        self.text = WrittenText(
            tokenizer, wish.stop, wish.ends, wish.options.max_new_tokens, self._hear, how=wish.choosing,
            chance=np.random.default_rng((job.seed, 0, number)), top=wish.options.logprobs, prompt=job.prompt,
            constraint=wish.form(), after=job.prompt if wish.goes_on else ())
        self.failed = False
        self._piece, self._tokens = "", 0

    @cached_property
    def rules(self) -> Any:
        """What else is done to its scores; made when a token is chosen, for a model's own may be wrong."""
        return None if self.job.wish.rules is None else self.job.wish.rules()

    def _hear(self, piece: str) -> None:
        self._piece += piece

    def tell(self) -> None:
        """Tell of what the last step added, and of the end where the text has come to it."""
        text, chosen = self.text, None
        more = len(text.ids) > self._tokens
        if more and text.top is not None:
            chosen = scored(text.tokenizer, text.ids[-1], text.logprobs[-1], text.likeliest[-1], text.offset)
        if more or self._piece:
            self.job.hear(self.number, Piece(self._piece, chosen))
        self._piece, self._tokens = "", len(text.ids)
        if text.reason:
            self._end()

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.failed = True
        self.text.close("error")
        if self._piece:
            self.job.hear(self.number, Piece(self._piece))
        self._end(error)

    def _end(self, error: Exception | None = None) -> None:
        self.job.left -= 1
        self.job.hear(self.number, End(self.text.reason, len(self.text.ids), error))


class Engine:
    """Writes the texts of one decoder's jobs together. One thread calls it.

    `decoder` is the model's forward pass written out, where packed_decoder knows it.
    """

    def __init__(self, opened: Opened, decoder: Decoder | None = None) -> None:
        self.decoder = decoder
        self.model = base_of(opened.model)  # peft's own forward adds nothing to the layers that it changed
        self.tokenizer = opened.tokenizer
        self.config = self.model.config
        self.keeps = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        self.reading: deque[PromptReading] = deque()
        self.rows: list[Row] = []
        self.table = StateTable(len(DynamicCache(config=self.config).layers))
        self.virtual = 0
        """Places before each row's first token: an adapter's prompt."""
        self.memory = PrefixMemory(WORTH, KEPT)

    def _cache(self) -> DynamicCache | States:
        return DynamicCache(config=self.config) if self.decoder is None else self.decoder.states()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.reading or self.rows)

    def admit(self, job: Job) -> None:
        """Begin a job; what is remembered of a text that began in the same way isn't read again."""
        cache = self._cache()
        self.reading.append(PromptReading(job, cache, self.memory.recall(job.prompt, cache, self.virtual)))

    @torch.inference_mode()
    def turn(self) -> int:
        """Read a little, then write a token of each text. Returns how many texts a token was written of.

        Where a GPU's memory ends, the text that came last ends with an error, and the others go on.
        """
        self._drop()
        filled: list[int] | None = None
        try:
            self._read_on()
            filled = [*self.table.filled]
            return self._step() if self.rows else 0
        except RuntimeError as error:  # its traceback holds tensors: they go with it
            if not device_full(error):
                raise
        if filled is not None:
            self.table.filled = filled  # the step wasn't made
        self._give_way(reading=filled is None)
        return 0

    def _read_on(self) -> None:
        """Read a little of the prompts that wait; texts begin behind those that are read."""
        budget = READ
        while self.reading and budget > 0:
            reading = self.reading[0]
            part = reading.job.prompt[reading.done : reading.done + budget]
            budget -= len(part)
            logits = self._read(reading, part)
            if reading.done == len(reading.job.prompt):
                self._join(reading, logits)  # what fails here is still being read, and ends with the others
                self.reading.popleft()

    @torch.inference_mode()
    def fail(self, error: Exception) -> None:
        """End everything with an error."""
        for row in [*(row for reading in self.reading for row in self._rows(reading.job)), *self.rows]:
            row.fail(error)
        while self.table.filled:
            self.table.leave(len(self.table.filled) - 1)
        self.reading.clear()
        self.rows.clear()
        self.memory.kept.clear()

    def _give_way(self, reading: bool) -> None:
        """Make room: forget what ended texts left; where nothing is left of them, end the text that came last.

        `reading`: its prompt was being read.
        """
        remembered = bool(self.memory.kept)
        self.memory.kept.clear()
        if remembered and reading:  # a part of its cache may have what it was reading, and the rest not
            self.reading[0] = PromptReading(self.reading[0].job, self._cache())
        elif not remembered:
            ended = self._rows(self.reading.popleft().job) if reading else self.rows[-1:]
            for row in ended:
                row.fail(DeviceFullError(FULL))
            if not reading:
                self._leave(len(self.rows) - 1)
            log.warning("a GPU's memory ended: %s, and the others go on", "a text ends with an error" if len(ended) == 1
                        else f"{len(ended)} texts end with an error")
        devices.release()

    def _rows(self, job: Job) -> list[Row]:
        return [Row(job, i, self.tokenizer) for i in range(job.count)]

    def _drop(self) -> None:
        """Free the places of jobs that nobody listens to."""
        for reading in [one for one in self.reading if one.job.gone]:
            self.reading.remove(reading)
            reading.job.left = 0
        for at in reversed(range(len(self.rows))):
            if self.rows[at].job.gone:
                self.rows[at].job.left -= 1
                self._leave(at)

    def _leave(self, at: int) -> None:
        """Free a row, and remember its text."""
        row = self.rows[at]
        if not row.failed:
            ids = [*row.job.prompt, *row.text.ids][: self.table.filled[at] - self.virtual]
            try:
                self.memory.keep(ids, self.table.copy(at))
            except RuntimeError as error:  # it is forgotten
                if not device_full(error):
                    raise
        self.table.leave(at, clean=row.failed)
        self.rows[at] = self.rows[-1]
        self.rows.pop()

    def _read(self, reading: PromptReading, part: list[int]) -> Tensor:
        """Let the model read a part of a prompt; the logits behind its last token (vocabulary), on the host."""
        if self.decoder is not None and isinstance(reading.cache, States):
            reading.done += len(part)
            return self.decoder.read([reading.job.prompt[: reading.done]], reading.cache)[0].float()
        few = {"logits_to_keep": 1} if self.keeps else {}
        ids = sent([part], self.model.device)
        out = self.model(input_ids=ids, past_key_values=reading.cache, use_cache=True, **few)
        reading.done += len(part)
        logits: Tensor = out.logits[0, -1].float().cpu()
        return logits

    def _join(self, reading: PromptReading, logits: Tensor) -> None:
        """Choose the first tokens behind a prompt, and give the texts that go on a row each."""
        self.virtual = reading.cache.get_seq_length() - len(reading.job.prompt)
        rows = self._rows(reading.job)
        self.table.reserve(len(rows), reading.cache)  # before a token is told, for memory may end in it
        _choose(logits.expand(len(rows), -1), rows)
        new = [row for row in rows if not row.text.reason]
        if new:
            self.table.join(reading.cache, len(new))
            self.rows += new

    def _step(self) -> int:
        """Write a token of each text."""
        count = len(self.rows)
        _choose(self._forward([row.text.ids[-1] for row in self.rows]), self.rows)
        for at in reversed(range(count)):
            if self.rows[at].text.reason:
                self._leave(at)
        return count

    def _forward(self, tokens: list[int]) -> Tensor:
        """The logits (rows, vocabulary) behind one more token of each row, on the host: tokens are chosen there."""
        table = self.table
        table.begin_step()
        if self.decoder is not None:
            return self.decoder.step(tokens, table.states()).float()
        places = table.places - self.virtual  # (rows): how many tokens stand before this one
        hidden = torch.arange(table.width - self.virtual, device=places.device) > places[:, None]  # (rows, keys)
        dtype = self.model.dtype
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, torch.finfo(dtype).min)
        out = self.model(
            input_ids=sent(tokens, places.device)[:, None], position_ids=places[:, None],
            attention_mask=mask[:, None, None], past_key_values=table, use_cache=True)
        logits: Tensor = out.logits[:, -1].float().cpu()
        return logits


def _choose(logits: Tensor, rows: list[Row]) -> None:
    """One token more of each row, from its logits (rows, vocabulary), float32; an error where it can have none."""
    wrong = [_wrong(row, finite, logits.shape[1])
             for row, finite in zip(rows, logits.isfinite().all(-1).tolist(), strict=True)]
    whole = [at for at, error in enumerate(wrong) if error is None]
    if whole:
        these = [rows[at] for at in whole]
        process = partial(_ruled, these) if any(row.rules for row in these) else None
        step(logits if len(whole) == len(rows) else logits[whole], [row.text for row in these], process)
    for row, error in zip(rows, wrong, strict=True):
        if error is None:
            row.tell()
        else:
            row.fail(error)


def _wrong(row: Row, finite: bool, size: int) -> LlmkitError | None:
    """Why a row can't go on: its numbers, or a form that no token goes on with."""
    if not finite:
        return NumberError(NOT_FINITE)
    try:
        if row.text.constraint is not None:
            row.text.constraint.allowed(size)
    except RequestError as error:
        return error
    return None


def _ruled(rows: list[Row], scores: Tensor) -> Tensor:
    """Scores (rows, vocabulary) by the rules of each row, which sees its own prompt and text alone."""
    scores = scores.clone()
    for at, row in enumerate(rows):
        if row.rules:
            ids = torch.tensor([[*row.job.prompt, *row.text.ids]], device=scores.device)
            scores[at] = row.rules(ids, scores[at : at + 1])[0]
    return scores


def suits(opened: Opened) -> bool:
    """Whether rows of uneven length can share a table: tried, with two prompts together and each alone.

    They can where every attention keeps all keys and values, and positions are taken as they are given: GPT-2, Llama,
    Qwen, and adapters over these. Where they can't, the model's texts are written by transformers' generate.
    """
    from peft import PeftModel

    outer: Any = opened.model
    if isinstance(outer, PeftModel) and outer.active_peft_config.is_prompt_learning:
        return False  # its prompt is in peft's forward
    model = base_of(outer)
    if opened.kind != "AutoModelForCausalLM":
        return False
    cache = DynamicCache(config=model.config)
    parameters = inspect.signature(model.forward).parameters
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return False
    if not {"position_ids", "past_key_values", "attention_mask"} <= set(parameters):
        return False
    size = ids_of(opened)
    one, other = [5 % size, 6 % size, 7 % size], [8 % size, 9 % size, 10 % size, 5 % size, 7 % size]
    engine = Engine(opened)
    with torch.inference_mode():
        for prompt in (one, other):
            job = Job(prompt, Wish(Options(), Choosing(), frozenset()), 0, 1, lambda _, __: None)
            reading = PromptReading(job, engine._cache())
            engine._read(reading, prompt)
            engine.virtual = reading.cache.get_seq_length() - len(prompt)
            engine.table.join(reading.cache, 1)
        together = engine._forward([11 % size, 12 % size])
        alone = torch.stack([
            model(input_ids=sent([[*prompt, last % size]], model.device)).logits[0, -1].float().cpu()
            for prompt, last in ((one, 11), (other, 12))])
    off = (together - alone).abs().max() / alone.std()
    exact = model.dtype == torch.float32 and not any(isinstance(part, EightBit) for part in model.modules())
    return bool(off < (1e-3 if exact else 0.1))
