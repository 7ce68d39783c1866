"""What a model says of a few rows, for people to look at: tokens with marks, texts gone on with, neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch
from llmkit.system.terminal import visible

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from llmkit.backbones.kernels.chunked_loss import Guesses

WRITTEN, BEGUN = 32, 16
"""Tokens that a model goes on with, and that it is given, at most."""
NEAREST, LETTERS = 3, 160
"""Neighbours of a text that are shown, and letters of a text in a list."""
PAIRS = {"next": ("the second follows the first", "the second is from elsewhere"),
         "order": ("in their order", "swapped")}
"""What the labels 0 and 1 of pairs of texts mean."""
Marked = list[list[str]]
"""[text, mark, note] one after the other: mark is right, wrong, doubted, or "" for plain text."""


def pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token, so that joined they are what the ids decode to: un ##able -> `un`, `able`."""
    out, before = [], ""
    for count in range(1, len(ids) + 1):
        whole = str(tokenizer.decode(list(ids[:count]), clean_up_tokenization_spaces=False))
        new = whole[len(before):] if whole.startswith(before) else str(tokenizer.convert_ids_to_tokens(ids[count - 1]))
        out.append(new)
        before = whole
    return out


def word(number: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """A token alone."""
    return str(tokenizer.decode([number])).strip() or visible(str(tokenizer.convert_ids_to_tokens(number)))


def marked(
    ids: Sequence[int], marks: Mapping[int, tuple[str, str]], tokenizer: PreTrainedTokenizerBase,
) -> Marked:
    """A row's text with marks at some of its places: {place: (mark, note)}; plain tokens stand together."""
    out: Marked = []
    for place, text in enumerate(pieces(ids, tokenizer)):
        if place in marks:
            if text[:1].isspace():
                out.append([text[:1], ""])
                text = text[1:]
            out.append([text, *marks[place]])
        elif out and out[-1][1] == "":
            out[-1][0] += text
        else:
            out.append([text, ""])
    return out


def plain(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """A row's text, special tokens and all."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def lengths(batch: Batch) -> list[int]:
    """How many tokens of each row's input_ids are no padding."""
    if "documents" in batch:
        return [int(count) for count in (batch["documents"] >= 0).sum(1).tolist()]
    if "attention_mask" in batch:
        return [int(count) for count in batch["attention_mask"].sum(1).tolist()]
    return [batch["input_ids"].shape[1]] * len(batch["input_ids"])


def rows_of(ids: Tensor, batch: Batch) -> list[list[int]]:
    """Each row's ids without padding."""
    return [row[:length] for row, length in zip(ids.tolist(), lengths(batch), strict=True)]


def verdicts(found: Guesses, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """Of each target whether its token is the likeliest, and what the model says, with its probability."""
    logits = found.at(slice(0, len(found.labels))).float().softmax(-1)
    chances, tokens = logits.max(-1)
    out = []
    for chance, token, label in zip(chances.tolist(), tokens.tolist(), found.labels.tolist(), strict=True):
        right = token == label
        out.append(("right" if right else "wrong", f"{'' if right else word(token, tokenizer) + ' '}{chance:.0%}"))
    return out


def guessed(
    found: Guesses, ids: Tensor, labels: Tensor, batch: Batch, tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """The text of each row, (rows, length) of `ids`, with the model's guess at each hidden token of `labels`.

    [CLS] the [MASK] sat [SEP]  ->  [CLS] the, [cat, wrong, dog 31%], sat [SEP]
    """
    said, out = iter(verdicts(found, tokenizer)), []
    real = ids.where(labels == -100, labels)
    for row, wanted in zip(rows_of(real, batch), labels.tolist(), strict=True):
        marks = {place: next(said) for place, label in enumerate(wanted) if label != -100}
        out.append({"text, and the guess at each hidden word": marked(row, marks, tokenizer)})
    return out


def written(found: Guesses, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Of an encoder-decoder: what each row reads, and what it has to write, with the model's guess at each token."""
    said, out = iter(verdicts(found, tokenizer)), []
    for row, wanted in zip(rows_of(batch["input_ids"], batch), batch["labels"].tolist(), strict=True):
        labels = [label for label in wanted if label != -100]
        marks = {place: next(said) for place in range(len(labels))}
        out.append({"reads": plain(row, tokenizer),
                    "has to write, and the guess at each token": marked(labels, marks, tokenizer)})
    return out


def gone_on(
    model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """How the model goes on with the beginning of each row, by the likeliest tokens, beside the row's own text."""
    import torch

    ids = batch["input_ids"]
    longest = min(lengths(batch))
    begun = max(1, min(BEGUN, longest // 2))
    text = ids[:, :begun]
    for _ in range(min(WRITTEN, longest - begun)):
        logits = family.outputs(model, {"input_ids": text, "attention_mask": torch.ones_like(text)}).logits
        text = torch.cat([text, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return [{"begins": plain(row[:begun], tokenizer), "the model goes on": plain(row[begun:], tokenizer),
             "the text goes on": plain(own[begun : begun + WRITTEN], tokenizer)}
            for row, own in zip(text.tolist(), rows_of(ids, batch), strict=True)]


def pairs_told(
    pairs: Sequence[tuple[int, int]], batch: Batch, tokenizer: PreTrainedTokenizerBase, words: tuple[str, str],
) -> list[dict[str, Any]]:
    """Each pair of texts, with what was said of it and what it is: (predicted, true), in words."""
    return [{"pair": plain(row, tokenizer), "the model says": words[said], "it is": words[true]}
            for row, (said, true) in zip(rows_of(batch["input_ids"], batch), pairs, strict=True)]


def neighbours(vectors: Tensor, texts: Sequence[str], most: int = 6) -> list[dict[str, Any]]:
    """The nearest other texts of each of the first ones, by the cosine of their vectors (texts, width)."""
    from torch.nn.functional import normalize

    unit = normalize(vectors.float(), dim=-1)
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-2.0)
    out = []
    for row, text in enumerate(texts[:most]):
        values, places = cosines[row].topk(min(NEAREST, len(texts) - 1))
        near = zip(values.tolist(), places.tolist(), strict=True)
        out.append({"text": text[:LETTERS], "nearest of the others": [
            f"{value:.2f}  {texts[place][:LETTERS]}" for value, place in near]})
    return out
