"""The tokenizer of a run: trained on its text, taken from elsewhere, or the pretrained model's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from copy import deepcopy
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from llmkit.data import tokenizer as tokenizers
from llmkit.data.large.folder import TokenFolder
from llmkit.data.swapping.pairs import with_swapped
from llmkit.models.edges import NO_END, give_ends
from llmkit.models.fetch import resolve_tokenizer
from llmkit.planning.settle import Settled
from llmkit.system import machine
from llmkit.system.errors import DataError, RequestError

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
    named, made = settled.recipe.tokenizer, next(
        (reader.origin for reader in settled.train if isinstance(reader.origin, TokenFolder)), None)
    if made is not None and (named is None or named.train is not None) and settled.base is None:
        return _of_tokens(made, options_of(settled))
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


def _of_tokens(made: TokenFolder, asked: dict[str, Any] | None) -> PreTrainedTokenizerBase:
    """The tokenizer that made a folder of tokens; RequestError where the recipe asks for one of other options."""
    there = made.making.trained
    if asked is not None and asked != there:
        differ = "is trained" if there is None else "; ".join(
            f"{name} is {asked[name]}, there {there.get(name)}" for name in asked if asked[name] != there.get(name))
        raise RequestError(f"tokenizer.train: {made.label} was made by another tokenizer ({differ}); leave tokenizer "
                           "out, or tokenize the text anew.")
    log.info("tokenizer: the one that made %s", made.label)
    return made.tokenizer()


def options_of(settled: Settled) -> dict[str, Any] | None:
    """What a recipe's tokenizer is trained with: kind, vocab_size, lowercase …; None where it is from elsewhere."""
    wanted = settled.recipe.tokenizer
    if wanted is None or wanted.train is None:
        return None
    return {"kind": wanted.train.kind, "vocab_size": wanted.train.vocab_size, "lowercase": wanted.train.lowercase,
            "sample": wanted.train.sample, "special": settled.family.special}


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
    size, most = sum(reader.size for reader in settled.train), wanted.train.sample
    share = None if most is None or most >= size else most / size
    if most is not None and not size:
        raise RequestError("tokenizer.train.sample: how large these sources are isn't known; give files, or leave it "
                           "out.")
    if share is not None:
        log.info("tokenizer: trained on a sample, the %.3g %% of the documents that a hash of their text chooses, "
                 "about %s of %s", 100 * share, machine.size(most or 0), machine.size(size))
    tokenizer, _ = tokenizers.trained(
        [*(reader.fingerprint() for reader in settled.train), *([] if share is None else [f"sample {most} of {size}"])],
        lambda: (text for reader in settled.train
                 for text in with_swapped(sampled(settled.recipe.learning.texts(reader), share), reader.swaps)),
        wanted.train.kind, wanted.train.vocab_size - less, wanted.train.lowercase, settled.family.special)
    return tokenizer


def sampled(texts: Iterable[str], share: float | None) -> Iterator[str]:
    """Of some texts, about so many: those whose hash is small, which are the same ones wherever and in any order.

    Raises DataError, once all texts were seen, where none is chosen.
    """
    if share is None:
        yield from texts
        return
    chosen, most = 0, int(share * 2**64)
    for text in texts:
        if int.from_bytes(blake2b(text.encode(), digest_size=8, person=b"sample").digest(), "little") < most:
            chosen += 1
            yield text
    if not chosen:
        raise DataError("tokenizer.train.sample: no document is chosen by so few bytes; ask for more.")
