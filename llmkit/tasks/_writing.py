"""Tasks whose answer is a text: a prompt is read, the answer is learned and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.sources import Place
from llmkit.data.tokens import encode
from llmkit.errors import DataError
from llmkit.objectives.base import Setup, token
from llmkit.tasks.base import Prediction, Row, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class Writing(Task):
    """A decoder goes on after the prompt; of an encoder-decoder, the encoder reads it and the decoder answers."""

    shapes = frozenset({"decoder", "encoder-decoder"})
    head = "AutoModelForCausalLM"

    max_new_tokens: int
    """Tokens that an answer may have."""
    num_beams: int
    """Answers that beam search follows at once; 1: the likeliest token each time."""

    def head_for(self, family: type[Family]) -> str:
        """The language model's."""
        return "AutoModelForSeq2SeqLM" if family.shape == "encoder-decoder" else self.head

    def ask(self, row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
        """The prompt of an example as the model reads it, up to where its answer starts."""
        raise NotImplementedError

    def answer(self, row: Row) -> str:
        """What is to be written."""
        raise NotImplementedError

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Prompt and answer as one row for a decoder; as encoder input and decoder output for an encoder-decoder.

        [prompt] [answer] </s>  ->  labels at the answer and its end only
        """
        tokenizer, what = setup.tokenizer, type(self).__name__.lower()
        end = token(tokenizer, "eos", what)
        prompts = encode(tokenizer, [self.ask(row, tokenizer) for row, _ in rows])
        answered = all(name in rows[0][0] for name in self.answers) if rows else False
        answers: list[Any] = [None] * len(rows)
        if answered:
            answers = [[*ids, end] for ids in encode(tokenizer, [self.answer(row) for row, _ in rows])]
        if setup.family.shape == "encoder-decoder":
            token(tokenizer, "pad", what)  # most decoders start from it
            start = setup.family.decoder_start(tokenizer)
            return [read_and_write(prompt, answer, start, end, setup.max_length, cut)
                    for prompt, answer in zip(prompts, answers, strict=True)]
        begin = [tokenizer.bos_token_id] if begins(tokenizer) else []
        return [go_on([*begin, *prompt], answer, setup.max_length, place, cut)
                for prompt, answer, (_, place) in zip(prompts, answers, rows, strict=True)]

    # ---- predictions ----

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The ids that the model writes after each prompt, without its end."""
        writer: Any = model
        config = writer.config.get_text_config()
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        pad = config.pad_token_id if config.pad_token_id is not None else ends[0]
        asked, seen = prompts_of(batch, family, pad)
        limit = family.position_limit(config)
        room = self.max_new_tokens
        if family.shape == "decoder" and limit is not None:
            room = min(room, limit - asked.shape[1])
        if room < 1:
            return [[] for _ in asked]
        written = writer.generate(
            input_ids=asked, attention_mask=seen, max_new_tokens=room, num_beams=self.num_beams, do_sample=False,
            pad_token_id=pad, eos_token_id=ends)
        written = written[:, asked.shape[1]:] if family.shape == "decoder" else written[:, 1:]
        return [until(ids, {*ends, pad}) for ids in written.tolist()]

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The text that was written."""
        (ids,) = outcomes
        return {"text": str(setup.tokenizer.decode(ids, skip_special_tokens=True)).strip()}


def go_on(asked: list[int], answer: list[int] | None, most: int, place: Place, cut: list[int]) -> Features:
    """A decoder's row: the prompt, which isn't learned, then the answer."""
    if len(asked) > most:
        raise DataError(f"{place}: the prompt alone has {len(asked)} tokens; data.max_length is {most}.")
    if answer is None:
        features: Features = {"input_ids": np.array(asked)}
    else:
        ids = np.array([*asked, *answer])
        if len(ids) - 1 > most:
            cut.append(len(ids) - 1 - most)
        labels = np.concatenate([np.full(len(asked), -100), ids[len(asked):]])[1 : most + 1]
        features = {"input_ids": ids[:-1][:most], "labels": labels}
    features["documents"] = np.zeros_like(features["input_ids"])
    return features


def read_and_write(
    prompt: list[int], answer: list[int] | None, start: int, end: int, most: int, cut: list[int],
) -> Features:
    """An encoder-decoder's row: the prompt and its end for the encoder, the answer for the decoder."""
    read = [*prompt, end]
    lost = max(0, len(read) - most) + max(0, len(answer or ()) - most)
    if lost:
        cut.append(lost)
    if len(read) > most:
        read = [*read[: most - 1], end]
    features: Features = {"input_ids": np.array(read)}
    if answer is not None:
        labels = np.array(answer[:most])
        features |= {"labels": labels, "decoder_input_ids": np.concatenate([[start], labels[:-1]]),
                     "decoder_documents": np.zeros(len(labels), dtype=np.int64)}
    features["documents"] = np.zeros(len(read), dtype=np.int64)
    return features


def prompts_of(batch: Batch, family: type[Family], pad: int) -> tuple[Tensor, Tensor]:
    """What each row asks, and where it isn't padding: padded on the left for a decoder, on the right for an encoder."""
    import torch

    ids = batch["input_ids"]
    seen = batch.get("attention_mask", torch.ones_like(ids))
    if family.shape == "encoder-decoder":
        return ids, seen
    lengths = seen.sum(1)
    if "labels" in batch:  # the last token of the prompt has the first label
        learned = batch["labels"] != -100
        lengths = torch.where(learned.any(1), learned.long().argmax(1) + 1, lengths)
    longest = int(lengths.max())
    back = torch.arange(longest, device=ids.device)[None] - (longest - lengths)[:, None]
    asked = ids.gather(1, back.clamp_min(0))
    return torch.where(back >= 0, asked, pad), (back >= 0).long()


def until(ids: list[int], ends: set[int]) -> list[int]:
    """Ids up to the first that ends a text."""
    return next((ids[:i] for i, number in enumerate(ids) if number in ends), ids)


def begins(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts a begin token before a text that has no chat template around it."""
    if tokenizer.chat_template is not None or tokenizer.bos_token_id is None:
        return False
    return bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
