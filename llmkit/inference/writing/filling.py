"""Filling: a text with holes goes in, the likeliest words for each hole come out.

Masks are filled by models like BERT, which give every token a probability at each; sentinels by encoder-decoders like
T5, which write out what stands behind each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmkit.data.encoder import Unknown
from llmkit.inference.writing.completion import Completion, decoded
from llmkit.inference.writing.context import positions
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.reading import padded
from llmkit.models.languages import UnreadScript
from llmkit.objectives.span_corruption import sentinel_name, sentinels
from llmkit.system.errors import RequestError
from llmkit.system.finite import check_scores

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from llmkit.models import Opened

FILLERS = ("AutoModelForMaskedLM", "AutoModelForPreTraining")
"""Auto classes of models that fill masks; of the latter, those that have a masked language model among their heads."""

MASKS = ("[MASK]", "<mask>")
"""What a mask is called in a prompt, whatever the tokenizer calls it."""

SHOWN = 5
"""Words told for a hole where nothing is said."""


@dataclass(frozen=True)
class Candidate:
    """A word that may stand in a hole."""

    text: str
    probability: float | None = None
    """Of the token, with every other mask still a mask; None of what was written for a sentinel."""
    token: str | None = None
    """The token as the tokenizer calls it: `##ing`, `Ġcat`."""

    def as_json(self) -> dict[str, Any]:
        """What there is to say."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Fill:
    """A hole of a prompt, and what may stand there, the likeliest first."""

    hole: str
    candidates: tuple[Candidate, ...]

    def as_json(self) -> dict[str, Any]:
        """`{"hole": "[MASK]", "candidates": [{"text": …, "probability": …, "token": …}]}`."""
        return {"hole": self.hole, "candidates": [one.as_json() for one in self.candidates]}


@dataclass
class Filler:
    """A masked language model, kept open: texts with masks in, words for them out."""

    name: str
    opened: Opened
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.opened.missing:
            raise RequestError(
                f"{self.name}: no weights for {self.opened.missing[0]}, which filling a mask needs: what it learned is "
                "to tell replaced tokens from real ones. Its run's generator/ fills masks; or fine-tune it for a task.")
        if self.opened.tokenizer.mask_token_id is None:
            raise RequestError(f"{self.name}: its tokenizer has no mask token, so there is nothing to fill.")
        self.opened.model.to(self.device)  # type: ignore[arg-type]

    def ids(self, prompt: str) -> list[int]:
        """A text's token ids; RequestError where it has no mask, or is longer than the model's context."""
        tokenizer = self.opened.tokenizer
        mask, known = str(tokenizer.mask_token), tokenizer.get_vocab()
        text = prompt
        for mark in MASKS:
            if mark not in known:
                text = text.replace(mark, mask)
        ids = list(tokenizer(text)["input_ids"])
        if tokenizer.mask_token_id not in ids:
            words = " ".join(prompt.split()[:6]) or "The cat sat on the"
            raise RequestError(f"the prompt has no mask, and {self.name} fills masks: put {mask} where a word is to "
                               f"be found, as in {f'{words} {mask}.'!r}.")
        limit = positions(self.opened)
        over = 0 if limit is None else len(ids) + self.opened.virtual_tokens - limit
        if over > 0:
            raise RequestError(f"the prompt's {len(ids):,} tokens are {over:,} more than the {len(ids) - over:,} that "
                               "the model's context takes; shorten the prompt.")
        self.unknown.see(ids, text)
        self.unknown.warn(self.name)
        if not self.unknown.said:
            self.script.warn(prompt)
        return ids

    @cached_property
    def unknown(self) -> Unknown:
        """What the tokenizer didn't know of all texts; said once."""
        return Unknown(self.opened.tokenizer)

    @cached_property
    def script(self) -> UnreadScript:
        """Whether the model knows what prompts are written in; said once."""
        return UnreadScript(self.name, self.opened.folder, self.opened.tokenizer)

    def fill(
        self, prompts: Sequence[Sequence[int]], count: int = 1, top: int = SHOWN,
    ) -> list[tuple[list[Completion], list[Fill]]]:
        """For each text, the `count` likeliest ways found to fill it, and for each mask its `top` likeliest tokens.

        These tables are of each mask by itself, with all others standing. The text is filled jointly: the mask whose
        best token is surest first, then the text is read again; `count` ways are followed side by side. A completion's
        score is the mean log probability of its fillings, each when it was chosen.
        """
        import torch

        if not prompts:
            return []
        tokenizer = self.opened.tokenizer
        ways = [[_Way(list(ids), [at for at, one in enumerate(ids) if one == tokenizer.mask_token_id])]
                for ids in prompts]
        tables: list[list[Fill]] = []
        with torch.inference_mode():
            while any(way.open for some in ways for way in some):
                flat = [way for some in ways for way in some if way.open]
                read = iter(self._read([way.ids for way in flat], [way.open for way in flat]))
                found = [[next(read) if way.open else None for way in some] for some in ways]
                if not tables:
                    tables = [[self._table(one, top) for one in first[0]] for first in found if first[0] is not None]
                ways = [_followed(some, logs, count) for some, logs in zip(ways, found, strict=True)]
        return [([self._completion(way) for way in some], table) for some, table in zip(ways, tables, strict=True)]

    def _read(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log probabilities at some places of each row: (places, vocabulary) each."""
        model: Any = self.opened.model
        ids, mask = padded(rows, self.opened.tokenizer.pad_token_id or 0, left=False, device=self.device)
        out = model(input_ids=ids, attention_mask=mask)
        logits = out["prediction_logits"] if "prediction_logits" in out else out["logits"]
        found = [logits[i, list(where)].float() for i, where in enumerate(places)]
        for one in found:
            check_scores(one, self.name)
        return [one.log_softmax(-1) for one in found]

    def _table(self, logs: Tensor, top: int) -> Fill:
        best, tokenizer = logs.topk(min(top, len(logs))), self.opened.tokenizer
        pairs = zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
        return Fill(str(tokenizer.mask_token), tuple(
            Candidate(decoded(tokenizer, [token], False).strip(), p, str(tokenizer.convert_ids_to_tokens(token) or ""))
            for token, p in pairs))

    def _completion(self, way: _Way) -> Completion:
        chosen = len(way.logs)
        return Completion(decoded(self.opened.tokenizer, way.ids), chosen, "stop", sum(way.logs) / chosen,
                          ids=tuple(way.ids))


@dataclass
class _Way:
    """A text with some of its masks filled."""

    ids: list[int]
    open: list[int]
    """Where masks still stand."""
    logs: list[float] = field(default_factory=list)
    """Log probabilities of the fillings."""


def _followed(ways: Sequence[_Way], read: Sequence[Tensor | None], count: int) -> list[_Way]:
    """Fill one mask more of each way, by as many tokens as ways are wanted, and keep the likeliest ways."""
    made: list[_Way] = []
    for way, logs in zip(ways, read, strict=True):
        if logs is None:
            made.append(way)
            continue
        surest = int(logs.max(-1).values.argmax())
        best = logs[surest].topk(min(count, logs.shape[-1]))
        place, rest = way.open[surest], [at for i, at in enumerate(way.open) if i != surest]
        for token, log in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            made.append(_Way([*way.ids[:place], token, *way.ids[place + 1:]], rest, [*way.logs, log]))
    different = {tuple(way.ids): way for way in sorted(made, key=lambda way: sum(way.logs))}  # of equals, the likelier
    return sorted(different.values(), key=lambda way: -sum(way.logs))[:count]


def check(options: Options, name: str) -> None:
    """RequestError where an option was given that filling masks has no use for."""
    used = ("num_return_sequences", "top_k", "seed")
    for one in fields(Options):
        if one.name not in used and getattr(options, one.name) != one.default:
            raise RequestError(f"{one.name}: has no effect on {name}, which fills masks: it writes no text. "
                               "Use top_k for how many words to show.")


# ---- sentinels ----


def holes(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The sentinels that stand in a prompt, in its order."""
    known = set(sentinels(tokenizer))
    return list(dict.fromkeys(one for one in ids if one in known))


def check_sentinels(prompt: str, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """RequestError where a prompt names a sentinel that the tokenizer doesn't know."""
    known, own = tokenizer.get_vocab(), sentinel_name(tokenizer)
    for mark in re.findall(r"<extra_id_\d+>", prompt):
        if mark not in known:
            there = len(sentinels(tokenizer))
            has = f"has {own.format(0)} to {own.format(there - 1)}" if there else "has none: it fills no holes"
            raise RequestError(f"{mark}: is no sentinel of {name}, whose tokenizer {has}.")


def behind(marks: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end the filling of a prompt's sentinels: those that the prompt doesn't have."""
    return set(sentinels(tokenizer)) - set(marks) if marks else set()


def mended(
    ids: Sequence[int], completions: Sequence[Completion], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Completion], tuple[Fill, ...]]:
    """A prompt with its holes filled, once for each completion; and for each sentinel, what these have for it.

    the <0> sat <1> mat </s>,  <0> cat <1> on a  ->  the cat sat on a mat; <0>: cat, <1>: on a
    """
    marks = holes(ids, tokenizer)
    spans = [_spans(completion.ids, set(marks)) for completion in completions]
    texts = [decoded(tokenizer, [part for one in ids for part in (got.get(one, []) if one in marks else [one])])
             for got in spans]
    fills = tuple(
        Fill(str(tokenizer.convert_ids_to_tokens(one)),
             tuple(Candidate(decoded(tokenizer, got[one]).strip()) for got in spans if one in got))
        for one in marks)
    return [replace(completion, text=text) for completion, text in zip(completions, texts, strict=True)], fills


def _spans(written: Sequence[int], marks: set[int]) -> dict[int, list[int]]:
    """What was written behind each sentinel, the first time that it was."""
    spans: dict[int, list[int]] = {}
    now: list[int] = []
    for one in written:
        if one in marks:
            now = [] if one in spans else spans.setdefault(one, [])
        else:
            now.append(one)
    return spans
