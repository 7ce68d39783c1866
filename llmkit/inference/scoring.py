"""How likely a model finds an answer after a prompt; what prompts have in common is computed once."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.backbones.base import Family
from llmkit.data.tokens import encode
from llmkit.models import Opened
from llmkit.objectives.base import only_at
from llmkit.objectives.span_corruption import sentinels
from llmkit.prompting.base import Prompt, Question
from llmkit.prompting.shared.examples import joined
from llmkit.system import devices
from llmkit.system.errors import RequestError, device_full
from llmkit.system.finite import check_all
from llmkit.system.report import log
from llmkit.tasks.shared.writing import begins

if TYPE_CHECKING:
    from torch import Tensor

Ids = tuple[int, ...]
KINDS = {"AutoModelForCausalLM": "decoder", "AutoModelForSeq2SeqLM": "encoder-decoder",
         "AutoModelForMaskedLM": "encoder"}
"""What can be asked for probabilities of words, by the auto class of its head."""
SHARED = 8
"""Tokens that prompts must have in common for it to be worth computing them once."""
ALIKE = 32
"""Prompts are taken together where these first tokens are the same …"""
FEW = 4
"""… and where fewer are, with the rest."""
LEAST = 64
"""Positions of a forward pass from which on fewer are tried where a device's memory ends."""


@dataclass(frozen=True)
class Answered:
    """What a model thinks of an answer."""

    logprob: float
    """Natural logarithm of its probability after the prompt, summed over its tokens."""
    tokens: int
    prompt: int
    """Tokens of the prompt."""


@dataclass(frozen=True)
class Target:
    """Tokens whose probabilities are asked for: `ids`, which stand behind `lead`, in a text of which `read` is seen."""

    read: Ids
    """What an encoder reads; of a masked model with `ids` hidden."""
    lead: Ids
    ids: Ids
    at: int = 0
    """Where in `read` the hidden tokens are."""

    @property
    def key(self) -> bytes:
        """Its content as a short name."""
        numbers = np.array([len(self.read), len(self.lead), self.at, *self.read, *self.lead, *self.ids], dtype=np.int64)
        return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()


class Scorer:
    """A model that is asked how likely answers are; what it was asked before, it remembers."""

    def __init__(
        self, opened: Opened, family: type[Family], *, device: str = "cpu", at_once: int = 1024, shares: bool = True,
    ) -> None:
        """`at_once`: positions in a forward pass. RequestError where the model predicts no words."""
        if opened.kind not in KINDS or family.shape == "permuted":
            raise RequestError(f"{opened.folder}: a {opened.model.config.model_type} opened as {opened.kind} tells no "
                               "probabilities of words; a prompt needs a language model: causal, masked or "
                               "encoder-decoder.")
        self.shape, self.head = KINDS[opened.kind], family.heads[opened.kind]
        self.model: Any = opened.model.to(device)  # type: ignore[arg-type]
        self.tokenizer, self.device, self.at_once, self.opened = opened.tokenizer, device, at_once, opened
        if not self.tokenizer.is_fast:
            raise RequestError(f"{opened.folder}: its tokenizer doesn't say where tokens stand in a text; a fast one "
                               "is needed.")
        self.limit = family.position_limit(opened.model.config)
        self.known: dict[bytes, float] = {}
        self.positions = 0
        """Positions that were computed, padding included."""
        self.keeps = self.shape == "decoder" and shares and self._keeps()

    def score(self, questions: Sequence[Question]) -> list[list[Answered]]:
        """What the model thinks of each answer of each question."""
        import torch

        targets = [self.targets(question) for question in questions]
        new = {one.key: one for some in targets for one in some if one.key not in self.known}
        way = {"decoder": self._continued, "encoder-decoder": self._written, "encoder": self._filled}[self.shape]
        with torch.inference_mode():
            found = self._fitting(lambda: way(list(new.values())))
        check_all(found, str(self.opened.folder))
        self.known |= found
        return [[Answered(self.known[one.key], len(one.ids), len(one.read or one.lead)) for one in some]
                for some in targets]

    def each(self, targets: Sequence[Target]) -> list[list[float]]:
        """The logarithm of the probability of each token of each target, given those before it.

        Of a masked model (Salazar et al. 2020, pseudo-log-likelihood) given all others of the text.
        """
        import torch

        with torch.inference_mode():
            if self.shape != "encoder":
                way = self._whole if self.shape == "decoder" else self._written
                told: dict[bytes, list[float]] = self._fitting(lambda: way(list(targets), each_at))
                check_all(told, str(self.opened.folder))
                return [told[one.key] for one in targets]
            mask = int(self.tokenizer.mask_token_id)
            alone = [[Target((*one.read[:spot], mask, *one.read[spot + 1 :]), (), (token,), spot)
                      for spot, token in enumerate(one.ids, one.at)] for one in targets]
            hidden = self._fitting(lambda: self._filled([part for parts in alone for part in parts]))
            check_all(hidden, str(self.opened.folder))
            return [[hidden[part.key] for part in parts] for parts in alone]

    def _fitting(self, work: Callable[[], dict[bytes, Any]]) -> dict[bytes, Any]:
        """What `work` finds, with half as many positions at once from where a device's memory ends on."""
        while True:
            try:
                return work()
            except RuntimeError as error:  # its traceback holds tensors: they go with it
                if self.at_once < LEAST or not device_full(error):
                    raise
            devices.release()
            self.at_once //= 2
            log.warning("passes over %d positions don't fit in this device's memory; going on with %d",
                        2 * self.at_once, self.at_once)

    # ---- prompts to tokens ----

    def targets(self, question: Question) -> list[Target]:
        """Each answer of a question as tokens; RequestError where they are too many."""
        prompt = question.prompt
        if self.shape == "decoder":
            found = self._after(prompt, question.answers)
        elif prompt.gap:
            found = [self._in_gap(prompt, answer) for answer in question.answers]
        elif self.shape == "encoder":
            raise RequestError("a masked model fills gaps and doesn't go on with a text: ask it by a cloze.")
        else:
            read, start = tuple(self.tokenizer(prompt.text)["input_ids"]), (self._start(),)
            found = [Target(read, start, tuple(ids)) for ids in encode(self.tokenizer, list(question.answers))]
        for one, answer in zip(found, question.answers, strict=True):
            if not one.ids:
                raise RequestError(f"the answer {answer!r} is no token to this model.")
            size = max(len(one.read), len(one.lead) + len(one.ids))
            if self.limit is not None and size + self.opened.virtual_tokens > self.limit:
                raise RequestError(f"a prompt with its answer has {size} tokens, {size - self.limit} more than the "
                                   f"{self.limit} that the model has positions for; shorten it.")
        return found

    def _after(self, prompt: Prompt, answers: Sequence[str]) -> list[Target]:
        """Prompt and answer as one text, cut where all answers begin to differ from the prompt alone.

        A space between the two belongs to the answer's first token, as most tokenizers have it.
        """
        if prompt.messages is not None:
            texts = [prompt.text, *(prompt.text + answer for answer in answers)]
        elif prompt.gap:
            texts = [prompt.text.rstrip(" "), *(prompt.filled(answer) for answer in answers)]
        else:
            texts = [prompt.text.rstrip(" "), *(joined(prompt.text, answer) for answer in answers)]
        before: list[int] = []
        if prompt.messages is None and begins(self.tokenizer):
            before = [int(self.tokenizer.bos_token_id or 0)]
        rows = [(*before, *ids) for ids in encode(self.tokenizer, texts)]
        if not rows[0]:
            start = next((i for i in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if i is not None), None)
            if start is None:
                raise RequestError("no token stands before what is scored, and the tokenizer has none to start a text "
                                   "with; give --given TEXT.")
            rows = [(int(start), *ids) for ids in rows]
        edge = max(1, common(rows))
        return [Target((), ids[:edge], ids[edge:]) for ids in rows[1:]]

    def _in_gap(self, prompt: Prompt, word: str) -> Target:
        """The text with the word in it, as it would be tokenized, and the word's tokens hidden.

        masked     the film was great .  ->  the film was [MASK] .
        T5         the film was great .  ->  the film was <extra_id_0> .      decoder: <extra_id_0> great
        BART       the film was great .  ->  the film was <mask> .            decoder: the film was great
        """
        first, last = len(prompt.text), len(prompt.text) + len(word)
        whole = self.tokenizer(prompt.filled(word), return_offsets_mapping=True)
        ids = whole["input_ids"]
        spots = [i for i, (start, end) in enumerate(whole["offset_mapping"]) if start < last and end > first]
        if not spots:
            return Target(tuple(ids), (), ())
        left, right = spots[0], spots[-1] + 1
        hidden = tuple(ids[left:right])
        if self.tokenizer.unk_token_id in hidden:
            raise RequestError(f"the word {word!r} is unknown to this model's tokenizer; choose another.")
        marks = sentinels(self.tokenizer)
        if self.shape == "encoder-decoder" and marks:
            return Target((*ids[:left], marks[0], *ids[right:]), (self._start(), marks[0]), hidden)
        mask = self.tokenizer.mask_token_id
        if mask is None:
            raise RequestError("a cloze needs a mask token, or <extra_id_0>, and this model's tokenizer has none.")
        if self.shape == "encoder-decoder":
            return Target((*ids[:left], mask, *ids[right:]), (self._start(), *ids[:left]), hidden)
        return Target((*ids[:left], *[mask] * len(hidden), *ids[right:]), (), hidden, left)

    def _start(self) -> int:
        """The token that the decoder of an encoder-decoder starts from."""
        config = self.model.config
        start = config.decoder_start_token_id
        return int(start if start is not None else config.pad_token_id or 0)

    # ---- causal models ----

    def _keeps(self) -> bool:
        """Whether what the model computed for a prefix can be kept for other texts: plain keys and values of it."""
        import torch
        from peft import PeftModel
        from transformers import DynamicCache

        whole = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        if self.opened.virtual_tokens or "position_ids" not in inspect.signature(whole.forward).parameters:
            return False
        with torch.inference_mode():
            past = self.model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=self.device), use_cache=True,
                              ).past_key_values
        return isinstance(past, DynamicCache) and not any(past.is_sliding)

    def _continued(self, targets: Sequence[Target]) -> dict[bytes, float]:
        """Of a causal model: what stands before is read once, and what many have before them once for all."""
        import torch

        if not self.keeps:
            return self._whole(targets)
        by_lead: dict[Ids, list[Target]] = {}
        for one in targets:
            by_lead.setdefault(one.lead, []).append(one)
        out: dict[bytes, float] = {}
        for leads in alike(list(by_lead)):
            shared = min(common(leads), min(map(len, leads)) - 1) if len(leads) > 1 else 0
            past = None
            if shared >= SHARED:
                past = self._run(torch.tensor([leads[0][:shared]], device=self.device), None, None)[1]
            else:
                shared = 0
            rests = {lead[shared:]: by_lead[lead] for lead in leads}
            for some in batches(list(rests), len, self.at_once):
                out |= self._batch(some, [rests[rest] for rest in some], past, shared)
        return out

    def _batch(
        self, rests: list[Ids], targets: list[list[Target]], past: Any, shared: int,
    ) -> dict[bytes, float]:
        """One pass over what stands before, whose last position says the first token of every answer.

        A second pass over answers of several tokens, each behind the keys and values of its own prompt.
        """
        import torch

        ids, lengths = padded(rests, self.device)
        last = torch.zeros_like(ids, dtype=torch.bool)
        last[torch.arange(len(rests)), lengths - 1] = True
        rows = torch.zeros(len(rests), dtype=torch.long, device=self.device)
        logits, past = self._run(ids, None if past is None else chosen(past, rows), last)
        first = logits.log_softmax(-1)  # (rows, vocabulary)
        out = {one.key: float(first[i, one.ids[0]]) for i, some in enumerate(targets) for one in some}
        more = [(i, one) for i, some in enumerate(targets) for one in some if len(one.ids) > 1]
        width = shared + ids.shape[1]
        # what is kept of a prompt costs memory only, and of that less than the logits of a token
        for some in batches(more, lambda pair: len(pair[1].ids) + width // 4, self.at_once):
            rows = torch.tensor([i for i, _ in some], device=self.device)
            answers, sizes = padded([one.ids[:-1] for _, one in some], self.device)
            steps = torch.arange(width + answers.shape[1], device=self.device)[None]
            ends = shared + lengths[rows][:, None]
            seen = ((steps < ends) | (steps >= width)).long()
            wanted = torch.arange(answers.shape[1], device=self.device)[None] < sizes[:, None]
            logits, _ = self._run(answers, chosen(past, rows), wanted, attention_mask=seen,
                                  position_ids=ends + torch.arange(answers.shape[1], device=self.device)[None])
            told = at(logits, [one.ids[1:] for _, one in some])
            for (_, one), value in zip(some, told, strict=True):
                out[one.key] += value
        return out

    def _whole(self, targets: Sequence[Target], told: Callable[..., list[Any]] | None = None) -> dict[bytes, Any]:
        """Of a causal model that keeps nothing of a prompt: each answer is read with all that stands before it."""
        import torch

        out: dict[bytes, Any] = {}
        for some in batches(targets, lambda one: len(one.lead) + len(one.ids), self.at_once):
            ids, lengths = padded([(*one.lead, *one.ids[:-1]) for one in some], self.device)
            steps = torch.arange(ids.shape[1], device=self.device)[None]
            begin = torch.tensor([len(one.lead) for one in some], device=self.device)[:, None] - 1
            logits, _ = self._run(ids, None, (steps >= begin) & (steps < lengths[:, None]),
                                  attention_mask=(steps < lengths[:, None]).long(), use_cache=False)
            out |= zip((one.key for one in some), (told or at)(logits, [one.ids for one in some]), strict=True)
        return out

    def _run(self, ids: Tensor, past: Any, wanted: Tensor | None, **inputs: Any) -> tuple[Tensor, Any]:
        """(logits at the wanted positions, keys and values so far)"""
        import torch

        self.positions += ids.numel()
        wanted = torch.zeros_like(ids, dtype=torch.bool) if wanted is None else wanted
        with only_at(self.model, self.head, wanted):
            outputs = self.model(**{"input_ids": ids, "past_key_values": past, "use_cache": True, **inputs})
        return outputs.logits.float(), outputs.past_key_values

    # ---- encoder-decoders ----

    def _written(self, targets: Sequence[Target], told: Callable[..., list[Any]] | None = None) -> dict[bytes, Any]:
        """Of an encoder-decoder: the encoder reads each prompt once, the decoder each answer."""
        import torch

        by_read: dict[Ids, list[Target]] = {}
        for one in targets:
            by_read.setdefault(one.read, []).append(one)
        out: dict[bytes, Any] = {}

        def cost(read: Ids) -> int:
            return len(read) + sum(len(one.lead) + len(one.ids) for one in by_read[read])

        for some in batches(list(by_read), cost, self.at_once):
            read, lengths = padded(some, self.device)
            seen = (torch.arange(read.shape[1], device=self.device)[None] < lengths[:, None]).long()
            rows, asked = zip(*[(i, one) for i, ids in enumerate(some) for one in by_read[ids]], strict=True)
            which = torch.tensor(rows, device=self.device)
            said, sizes = padded([(*one.lead, *one.ids[:-1]) for one in asked], self.device)
            steps = torch.arange(said.shape[1], device=self.device)[None]
            begin = torch.tensor([len(one.lead) for one in asked], device=self.device)[:, None] - 1
            inputs: dict[str, Any] = {"attention_mask": seen[which], "decoder_input_ids": said, "use_cache": False}
            if self.opened.virtual_tokens:  # an adapter that puts something before the text does so in its forward
                inputs["input_ids"] = read[which]
            else:
                hidden = self.model.get_encoder()(input_ids=read, attention_mask=seen).last_hidden_state
                inputs["encoder_outputs"] = (hidden[which],)
            self.positions += read.numel() + said.numel()
            with only_at(self.model, self.head, (steps >= begin) & (steps < sizes[:, None])):
                logits = self.model(**inputs).logits.float()
            out |= zip((one.key for one in asked), (told or at)(logits, [one.ids for one in asked]), strict=True)
        return out

    # ---- masked models ----

    def _filled(self, targets: Sequence[Target]) -> dict[bytes, float]:
        """Of a masked model: each token of a word where those before it stand and it and those behind it are hidden.

        log p(w1 | [M] [M]) + log p(w2 | w1 [M]): with all others seen (Salazar et al. 2020) the rest of a word would
        give each of its tokens away (Kauf & Ivanova 2023, PLL-word-l2r).
        """
        import torch

        texts: dict[Ids, list[tuple[int, int, bytes]]] = {}
        for one in targets:
            for i, token in enumerate(one.ids):
                shown = (*one.read[: one.at], *one.ids[:i], *one.read[one.at + i :])
                texts.setdefault(shown, []).append((one.at + i, token, one.key))
        out = {one.key: 0.0 for one in targets}
        for some in batches(list(texts), len, self.at_once):
            ids, lengths = padded(some, self.device)
            places = [sorted({spot for spot, _, _ in texts[text]}) for text in some]
            wanted = torch.zeros_like(ids, dtype=torch.bool)
            for row, spots in enumerate(places):
                wanted[row, spots] = True
            seen = (torch.arange(ids.shape[1], device=self.device)[None] < lengths[:, None]).long()
            self.positions += ids.numel()
            with only_at(self.model, self.head, wanted):
                told = self.model(input_ids=ids, attention_mask=seen).logits.float().log_softmax(-1)
            order = [(row, spot) for row, spots in enumerate(places) for spot in spots]
            number = {place: i for i, place in enumerate(order)}
            for row, text in enumerate(some):
                for spot, token, key in texts[text]:
                    out[key] += float(told[number[row, spot], token])
        return out


def common(rows: Sequence[Ids]) -> int:
    """How many first tokens all rows share: the first and the last in order differ where any two do."""
    low, high = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))


def alike(leads: Sequence[Ids]) -> Iterator[list[Ids]]:
    """Prompts that start the same, together; those that start like few others are the last group."""
    groups: dict[Ids, list[Ids]] = {}
    for lead in leads:
        groups.setdefault(lead[:ALIKE], []).append(lead)
    yield from (some for some in groups.values() if len(some) >= FEW)
    if rest := [lead for some in groups.values() if len(some) < FEW for lead in some]:
        yield rest


def batches(items: Sequence[Any], size: Any, most: int) -> Iterator[list[Any]]:
    """Items of about one size together, the longest first, padded to at most so many positions (or alone)."""
    some: list[Any] = []
    for item in sorted(items, key=size, reverse=True):
        if some and (len(some) + 1) * size(some[0]) > most:
            yield some
            some = []
        some.append(item)
    if some:
        yield some


def padded(rows: Iterable[Sequence[int]], device: str) -> tuple[Tensor, Tensor]:
    """(rows, longest) with zeros behind, and how long each is."""
    import torch

    parts = [torch.tensor(row, dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(part) for part in parts])
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device), lengths.to(device)


def chosen(past: Any, rows: Tensor) -> Any:
    """Keys and values of some rows, as a cache of their own; a row may be there several times."""
    from transformers import DynamicCache

    made = DynamicCache()
    for number, layer in enumerate(past.layers):
        made.update(layer.keys[rows], layer.values[rows], number)
    return made


def at(logits: Tensor, answers: Sequence[Ids]) -> list[float]:
    """The summed log-probability of each answer, of logits (tokens of all answers, vocabulary)."""
    return [float(some.sum()) for some in _at(logits, answers)]


def each_at(logits: Tensor, answers: Sequence[Ids]) -> list[list[float]]:
    """The log-probability of each token of each answer, of logits (tokens of all answers, vocabulary)."""
    return [some.tolist() for some in _at(logits, answers)]


def _at(logits: Tensor, answers: Sequence[Ids]) -> Sequence[Tensor]:
    import torch

    flat = torch.tensor([token for ids in answers for token in ids], device=logits.device)
    told = logits.log_softmax(-1).gather(1, flat[:, None])[:, 0]
    return torch.split(told, [len(ids) for ids in answers])
