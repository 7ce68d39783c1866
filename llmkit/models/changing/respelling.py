"""Another tokenizer for a trained model: what belongs to a token moves with it, be it a row of a table or a bias."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from llmkit.data.tokenizer_files import rows_for

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

ROLES = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


def respell(model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    """Give a pretrained model another tokenizer: what it has of tokens known to both stays, new ones get the mean.

    That is rows of the input and output embeddings, and the biases of the output.
    """
    import torch

    before, after = old.get_vocab(), new.get_vocab()
    kept = [(row, before[word]) for word, row in after.items() if word in before]
    places = of_words(model)
    saved = {name: tensor.detach().clone() for name, tensor in tensors(model) if name in places}
    model.resize_token_embeddings(rows_for(new), mean_resizing=False)
    done: set[int] = set()
    with torch.no_grad():
        for name, tensor in tensors(model):
            if name in saved and id(tensor) not in done:
                done.add(id(tensor))
                was, now = saved[name].movedim(places[name], 0), tensor.detach().movedim(places[name], 0)
                now[:] = was.mean(0)
                pairs = [(ours, theirs) for ours, theirs in kept if theirs < len(was)]
                now[[ours for ours, _ in pairs]] = was[[theirs for _, theirs in pairs]]
    _translate(model, old, new)
    biases = any(was.squeeze().dim() == 1 for was in saved.values())
    log.info("another tokenizer: %s of its %s tokens keep their embeddings%s, the others start from the mean",
             f"{len(kept):,}", f"{len(after):,}", " and output biases" if biases else "")


def tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all of their names: what is tied has several."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def of_words(model: PreTrainedModel) -> dict[str, int]:
    """The tensors that grow with the vocabulary, and the dimension that does: a model with a word more has them so."""
    import torch

    shapes = []
    for more in (0, 1):
        config: Any = deepcopy(model.config)
        config.get_text_config().vocab_size += more
        with torch.device("meta"):
            made: Any = type(model)(config)
        shapes.append({name: tensor.shape for name, tensor in tensors(made)})
    fewer, larger = shapes
    return {name: next(i for i, size in enumerate(shape) if size != larger[name][i])
            for name, shape in fewer.items() if shape != larger[name]}


def _translate(model: Any, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    """The same tokens in the configs, by their new ids: the start of a decoder, forced ends …"""
    words, known = {number: word for word, number in old.get_vocab().items()}, new.get_vocab()

    def translated(number: Any) -> Any:
        if isinstance(number, list):
            return [one for one in map(translated, number) if one is not None] or None
        role = next((role for role in ROLES if getattr(old, f"{role}_token_id") == number), None)
        other = None if role is None else getattr(new, f"{role}_token_id")
        return known.get(words.get(number, ""), other)

    own = {f"{role}_token_id": getattr(new, f"{role}_token_id") for role in ("pad", "bos", "eos")}
    for config in (model.config, getattr(model, "generation_config", None)):
        named = {} if config is None else {
            name: number for name, number in config.to_dict().items() if name.endswith("_token_id")}
        for name, number in named.items():
            if number is not None and (config is not model.config or name not in own):
                setattr(config, name, translated(number))
    for name, number in own.items():
        setattr(model.config, name, number)
