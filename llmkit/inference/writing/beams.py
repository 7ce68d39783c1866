"""Beams and assistants: transformers' own search, watched and ended by what our texts say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llmkit.inference.writing.context import base_of, defaults
from llmkit.inference.writing.sampling import logprobs_of, torch_seed
from llmkit.system.finite import Watching

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig

    from llmkit.inference.writing.text import WrittenText
    from llmkit.inference.writing.writer import Writer


class Until:
    """Tells transformers which rows have ended: by what they are, and all of them once `stopped` says so."""

    def __init__(self, ended: Callable[[list[int]], bool], stopped: Callable[[], bool] | None) -> None:
        self.ended, self.ask, self.stopped = ended, stopped, False

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(batch, length) -> (batch)"""
        import torch

        self.stopped = self.stopped or (self.ask is not None and self.ask())
        return torch.tensor([self.stopped or self.ended(row) for row in ids.tolist()], device=ids.device)


class Feed:
    """What transformers calls with each new token of a single text."""

    def __init__(self, text: WrittenText) -> None:
        self.text, self.prompted = text, False

    def put(self, value: Tensor) -> None:
        """The prompt comes first."""
        for token in value.flatten().tolist() if self.prompted else ():
            if not self.text.reason:
                self.text.add(token)
        self.prompted = True

    def end(self) -> None:
        """Why it ended, only the caller knows."""


def search(
    writer: Writer, prompts: Sequence[Sequence[int]], texts: Sequence[WrittenText], config: GenerationConfig,
    seeds: Sequence[tuple[int, int, int]], stopped: Callable[[], bool] | None,
) -> None:
    """By transformers' beam search or with an assistant, a prompt at a time: they draw from one common chance."""
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    model: Any = writer.opened.model
    beams = config.num_beams > 1
    count = config.num_return_sequences
    config.num_return_sequences = count if beams else 1
    for at in range(0, len(texts), config.num_return_sequences):
        ids, mask = writer.batch([prompts[at // count]])
        start = 1 if writer.reads else ids.shape[1]
        some = texts[at:at + config.num_return_sequences]
        config.max_new_tokens = some[0].room
        more: dict[str, Any] = {}
        if beams:
            until = Until(partial(some[0].ends_in, start=start), stopped)
        else:
            assert writer.assistant is not None  # whoever calls this asked for one of the two
            until = Until(some[0].ended, stopped)
            more = {"assistant_model": writer.assistant.model.to(writer.device),  # type: ignore[arg-type]
                    "streamer": Feed(some[0])}
        with torch.random.fork_rng(enabled=config.do_sample):
            if config.do_sample:
                torch.manual_seed(torch_seed(seeds[at]))
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config,
                                 logits_processor=LogitsProcessorList([Watching("writing")]),
                                 stopping_criteria=StoppingCriteriaList([until]), **more)
        for text, row in zip(some, out[:, start:].tolist(), strict=True):
            for token in row if beams else ():
                if not text.reason:
                    text.add(token)
            text.close("stopped" if until.stopped else "length")


def score(writer: Writer, prompt: Sequence[int], text: WrittenText, top: int | None) -> None:
    """Read a text that is written, all at once, for the log probability of each of its tokens."""
    import torch

    if not text.ids:
        return
    model: Any = writer.opened.model
    own: Any = defaults(model)
    ids, mask = writer.batch([[*prompt] if writer.reads else [*prompt, *text.ids]])
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if writer.reads:
        start = own.decoder_start_token_id if own.decoder_start_token_id is not None else own.bos_token_id
        given["decoder_input_ids"] = torch.tensor([[start, *text.ids[:-1]]], device=ids.device)
    elif "logits_to_keep" in inspect.signature(base_of(model).forward).parameters:
        given["logits_to_keep"] = len(text.ids) + 1
    logits = model(**given).logits[0].float()  # (length, vocabulary)
    if not writer.reads:
        logits = logits[-len(text.ids) - 1:-1]
    text.logprobs, text.likeliest = logprobs_of(logits, torch.tensor(text.ids, device=logits.device), top or 0)
