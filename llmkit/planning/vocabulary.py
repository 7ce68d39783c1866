"""The tokenizer of a run: trained on its text, taken from elsewhere, or the pretrained model's own."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import TYPE_CHECKING

from llmkit.data import tokenizer as tokenizers
from llmkit.data.swapping.pairs import with_swapped
from llmkit.models.edges import NO_END, give_ends
from llmkit.models.fetch import resolve_tokenizer
from llmkit.planning.settle import Settled
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")
WRITE = ("decoder", "encoder-decoder")
"""Shapes of models that write text."""


def speak(settled: Settled) -> PreTrainedTokenizerBase:
    """The tokenizer of a run, with the special tokens that its objective needs.

    CheckpointError where the one that it is to be taken from can't be read, DataError where there is no text.
    """
    tokenizer = _found(settled)
    if settled.family.shape in WRITE:
        said = {**(settled.base.said if settled.base is not None else {}), **settled.recipe.backbone.config}
        if note := give_ends(tokenizer, said):
            log.info("%s", note)
        if settled.family.shape == "decoder" and tokenizer.eos_token_id is None:
            log.warning("%s", NO_END)
    if missing(tokenizer, settled):
        tokenizer.add_special_tokens(settled.recipe.learning.missing(tokenizer))
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # for positions that nothing attends to or learns from
    return tokenizer


def _found(settled: Settled) -> PreTrainedTokenizerBase:
    """The tokenizer as it is elsewhere, or as it was trained; this run's own, to be changed."""
    named = settled.recipe.tokenizer
    if named is None:
        assert settled.base is not None
        if not tokenizers.has_tokenizer(settled.base.folder):
            raise RequestError(f"tokenizer: {settled.base.folder} has none of its own (no "
                               f"{', '.join(tokenizers.FILES)}); say tokenizer: {{pretrained: …}}.")
        return deepcopy(settled.base.tokenizer)
    if named.pretrained is not None:
        return tokenizers.load(resolve_tokenizer(named.pretrained))
    tokenizer = _trained(settled, 0)
    extra = missing(tokenizer, settled)  # the tokens that an objective adds are part of vocab_size
    return _trained(settled, extra) if extra else tokenizer


def missing(tokenizer: PreTrainedTokenizerBase, settled: Settled) -> int:
    """How many special tokens the objective needs that the tokenizer lacks."""
    found = settled.recipe.learning.missing(tokenizer)
    return sum(len(tokens) if isinstance(tokens, list) else 1 for tokens in found.values())


def _trained(settled: Settled, less: int) -> PreTrainedTokenizerBase:
    """The tokenizer trained on the run's text, with room for some more tokens."""
    wanted = settled.recipe.tokenizer
    assert wanted is not None
    assert wanted.train is not None
    assert wanted.train.kind is not None
    tokenizer, _ = tokenizers.trained(
        [reader.fingerprint() for reader in settled.train],
        lambda: (text for reader in settled.train
                 for text in with_swapped(settled.recipe.learning.texts(reader), reader.swaps)),
        wanted.train.kind, wanted.train.vocab_size - less, wanted.train.lowercase, settled.family.special)
    return tokenizer
