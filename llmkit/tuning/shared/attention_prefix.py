"""A prefix put in front of every attention of a model, through transformers' attention interface.

An attention finds its learned keys and values on itself (`module.prefix`) and sees them before its own: no cache is
involved, so this works for encoders, encoder-decoders, packed rows and gradient checkpointing alike.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from llmkit.backbones.kernels.privates import attention_of
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.tuning.shared.files import CONFIG, PLAIN_KEY, WEIGHTS, put_back

INTERFACE = "llmkit_prefix"
"""What the way of attending is called in a model's config."""

SHOWN = "llmkit_prefix_shown"
"""The way that does so and tells its weights."""

OWN_TYPE = "LLMKIT_PREFIX"
"""The `peft_type` of adapters that plain peft can't reproduce, so that it refuses them."""


@dataclass(frozen=True)
class PrefixPlace:
    """An attention that gets a prefix."""

    name: str
    """Its dotted name in the model."""
    heads: int
    """Heads of its keys and values: fewer than the queries' where these are grouped."""
    width: int
    """Dimensions of a head."""

    @property
    def columns(self) -> int:
        """Numbers that one virtual token holds for it: a key and a value."""
        return 2 * self.heads * self.width


@dataclass(frozen=True)
class PrefixAdapter:
    """What a prefixed model knows of its prefix, and is saved beside the weights."""

    places: tuple[PrefixPlace, ...]
    tokens: int
    hidden: int | None
    """Hidden size of the two-layer network that the prefix came out of; None where there was none."""
    new: tuple[str, ...]
    """Parts of the model that trained with it."""
    plain: bool
    """Whether peft's own prefix tuning, where the prefix takes the first positions, gives the same outputs."""
    task_type: str | None = None
    base: str = ""


class Inner(nn.Module):
    """The part of the reparametrisation that all attentions share: virtual tokens to hidden features."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(state["embedding.weight"])
        self.weight = nn.Parameter(state["transform.0.weight"])
        self.bias = nn.Parameter(state["transform.0.bias"])

    def forward(self) -> Tensor:
        """(tokens, hidden)"""
        return torch.tanh(nn.functional.linear(self.embedding, self.weight, self.bias))


class AttentionPrefix(nn.Module):
    """The keys and values of one attention: a table, or the shared features through a linear layer of its own."""

    def __init__(
        self, place: PrefixPlace, weight: Tensor, bias: Tensor | None = None, inner: Inner | None = None,
    ) -> None:
        super().__init__()
        self.place = place
        self.inner = inner
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def rows(self) -> Tensor:
        """(tokens, 2 * heads * width), keys before values: a layer's columns of peft's `prompt_embeddings`."""
        return self.weight if self.inner is None else nn.functional.linear(self.inner(), self.weight, self.bias)

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the prefix before keys and values. (batch, heads, k, width) -> (batch, heads, tokens + k, width)"""
        both = self.rows().view(-1, 2, self.place.heads, self.place.width).permute(1, 2, 0, 3)
        both = both.to(key.dtype)[:, None].expand(-1, key.shape[0], -1, -1, -1)
        return torch.cat([both[0], key], 2), torch.cat([both[1], value], 2)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend to the prefix too, which every query sees. Same arguments as any attention function of transformers."""
    key, value, attention_mask = behind_prefix(module, query, key, value, attention_mask, options)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def attend_shown(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """What `attend` does, by plain products: also the weights, (batch, heads, q, tokens + k)."""
    key, value, attention_mask = behind_prefix(module, query, key, value, attention_mask, options)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scaling = options.get("scaling")
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if options.get("position_bias") is not None:
        scores = scores + options["position_bias"]
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def behind_prefix(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask with an attention's prefix before them; `options` is changed to fit."""
    prefix = module._modules.get("prefix")
    if prefix is None:
        return key, value, attention_mask
    before = key.shape[2]
    key, value = prefix(key, value)
    tokens = key.shape[2] - before
    causal = options.pop("is_causal", None)
    if attention_mask is not None:
        attention_mask = pad(attention_mask, (tokens, 0), value=attention_mask.dtype == torch.bool)
    elif query.shape[2] > 1 and (getattr(module, "is_causal", True) if causal is None else causal):
        # sdpa's own causal mask would count the prefix as the first positions of the queries
        seen = torch.ones(query.shape[2], before, dtype=torch.bool, device=key.device)
        attention_mask = pad(seen.tril(before - query.shape[2]), (tokens, 0), value=True)[None, None]
    options["is_causal"] = False
    if options.get("position_bias") is not None:  # T5: no distance to the prefix, so no bias
        options["position_bias"] = pad(options["position_bias"], (tokens, 0))
    return key, value, attention_mask


@contextmanager
def attention_shown(model: PreTrainedModel) -> Iterator[None]:
    """While the block runs, a model attends in a way that tells its weights: `output_attentions=True` then has them."""
    before = attention_of(model)
    way = SHOWN if before == INTERFACE else "eager"
    AttentionMaskInterface.register(SHOWN, written_out)
    AttentionInterface.register(SHOWN, attend_shown)
    if before != "eager":
        model.set_attn_implementation(way)
    try:
        yield
    finally:
        if before != "eager":
            model.set_attn_implementation(before)


def written_out(*sizes: Any, **options: Any) -> Tensor | None:
    """Sdpa's mask, but a causal one is always written out: `is_causal` can't express a prefix."""
    return sdpa_mask(*sizes, **{**options, "allow_is_causal_skip": False})


def places(model: PreTrainedModel) -> list[PrefixPlace]:
    """Every attention of the model in the order it calls them: found by calling it on one token."""
    return [place for place, _ in heard(model, torch.zeros(1, 1, dtype=torch.long)).values()]


def from_text(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The keys and values that a text (tokens) gives in every attention: (tokens, columns of all places).

    In a decoder, a prefix that starts so is the text itself (Li & Liang 2021, §7.4). An encoder-decoder reads it on
    both sides.
    """
    return torch.cat([rows for _, rows in heard(model, ids[None]).values()], 1)


def heard(model: PreTrainedModel, ids: Tensor) -> dict[str, tuple[PrefixPlace, Tensor]]:
    """Each attention, by its name, with the keys and values of some tokens (1, tokens): (tokens, columns)."""
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, tuple[PrefixPlace, Tensor]] = {}

    def note(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        if key.shape != value.shape:
            raise RequestError(
                f"tuning: {type(module).__name__} has keys and values of different shapes, which prefix tuning can't "
                "prefix. Use lora instead.")
        place = PrefixPlace(names[id(module)], key.shape[1], key.shape[3])
        rows = torch.stack([key[0], value[0]]).permute(2, 0, 1, 3).flatten(1)  # keys before values
        found.setdefault(place.name, (place, rows.float()))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    AttentionMaskInterface.register(INTERFACE, written_out)
    AttentionInterface.register(INTERFACE, note)
    model.set_attn_implementation(INTERFACE)
    body: Any = model.base_model  # without a head: T5's classifier wants an end token
    inputs = {"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids, device=model.device)}
    if "decoder_input_ids" in inspect.signature(body.forward).parameters:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()  # type: ignore[no-untyped-call]
            body(**inputs)
    finally:
        model.train(training)
        AttentionInterface.register(INTERFACE, attend)
    if not found:
        raise RequestError(
            f"tuning: prefix tuning can't reach the attention of {type(model).__name__}, which doesn't go through "
            "transformers' attention interface. Use lora instead.")
    return found


def fresh(tokens: int, columns: int, width: int, hidden: int | None) -> dict[str, Tensor]:
    """Weights to start from, by the names of peft's PrefixEncoder, drawn from torch's global generator.

    The start is peft's own, torch's default for a layer: keys and values are N(0, 1), or what a fresh network makes of
    N(0, 1). It costs a little at step 0 and trains faster than a start near 0, where a key's gradient, which is in
    proportion to its value, is near 0 too. A small GPT-2 after 50 to 60 steps, at the same learning rate: 0.17 from
    N(0, 1), 0.22 from N(0, 0.2), 0.28 from N(0, 0.02) on text like its own, and 0.25, 0.64, 1.88 on text unlike it.
    """
    if hidden is None:
        return {"embedding.weight": torch.randn(tokens, columns)}
    embedding, first, last = nn.Embedding(tokens, width), nn.Linear(width, hidden), nn.Linear(hidden, columns)
    parts = {"embedding": embedding, "transform.0": first, "transform.2": last}
    return {f"{part}.{key}": weight for part, layer in parts.items() for key, weight in layer.state_dict().items()}


def attach(model: PreTrainedModel, adapter: PrefixAdapter, state: dict[str, Tensor]) -> None:
    """Put weights with the names of `fresh` on the attentions; they and the parts that are new are all that trains."""
    model.requires_grad_(False)
    inner = Inner(state).to(model.device) if "transform.0.weight" in state else None
    columns = [place.columns for place in adapter.places]
    biases: Iterable[Tensor | None] = repeat(None)
    if inner is None:
        weights = torch.split(state["embedding.weight"], columns, 1)
    else:
        weights = torch.split(state["transform.2.weight"], columns)
        biases = torch.split(state["transform.2.bias"], columns)
    for place, weight, bias in zip(adapter.places, weights, biases, strict=False):
        prefix = AttentionPrefix(place, weight.clone(), None if bias is None else bias.clone(), inner)
        model.get_submodule(place.name).add_module("prefix", prefix.to(model.device))
    for name in adapter.new:
        model.get_submodule(name).requires_grad_(True)
    if adapter.plain:
        shift_positions(model, adapter.tokens)
    if checkpoints(model):  # the reentrant kind gives no gradients where no input has one
        model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    model.llmkit_prefix = adapter  # type: ignore[assignment]


def checkpoints(model: PreTrainedModel) -> bool:
    """Whether the model computes its layers a second time instead of keeping their activations."""
    return any(vars(module).get("gradient_checkpointing") for module in model.modules())


def shift_positions(model: PreTrainedModel, tokens: int) -> None:
    """Let the first token stand at position `tokens`, as it does behind peft's prefix."""
    reader = model.base_model
    embeddings = dict(reader.named_children()).get("embeddings")
    if embeddings is not None and "past_key_values_length" in inspect.signature(embeddings.forward).parameters:
        # BERT and its kin: the embeddings number the tokens, RoBERTa's by the ids
        embeddings.register_forward_pre_hook(partial(_later_embeddings, tokens), with_kwargs=True)
    else:
        reader.register_forward_pre_hook(partial(_later_tokens, tokens), with_kwargs=True)


def _later_embeddings(
    tokens: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if kwargs.get("position_ids") is not None:
        return args, {**kwargs, "position_ids": kwargs["position_ids"] + tokens}
    return args, {**kwargs, "past_key_values_length": kwargs.get("past_key_values_length", 0) + tokens}


def _later_tokens(
    tokens: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positions = kwargs.get("position_ids")
    if positions is None:
        ids = args[0] if args else kwargs.get("input_ids")
        here = kwargs["inputs_embeds"] if ids is None else ids
        cache = kwargs.get("past_key_values")
        start = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(here.shape[1], device=here.device)[None] + start
    return args, {**kwargs, "position_ids": positions + tokens}


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors: in peft's own layout where peft can read them."""
    adapter = _adapter(model)
    config: dict[str, Any] = {
        "peft_type": OWN_TYPE,
        "task_type": adapter.task_type,
        "base_model_name_or_path": adapter.base,
        "num_virtual_tokens": adapter.tokens,
        "prefix_projection": adapter.hidden is not None,
        "encoder_hidden_size": adapter.hidden,
        "modules_to_save": list(adapter.new) or None,
        "inference_mode": True,
    }
    rows = {place: model.get_submodule(place.name).prefix.rows().detach() for place in adapter.places}  # type: ignore[operator, union-attr]
    tensors = {
        f"base_model.{name}.{key}": tensor
        for name in adapter.new for key, tensor in model.get_submodule(name).state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    if adapter.plain:
        from peft import PrefixTuningConfig

        tensors[PLAIN_KEY] = torch.cat(list(rows.values()), 1)
        first = adapter.places[0]
        PrefixTuningConfig(**{
            **config, "peft_type": "PREFIX_TUNING", "num_layers": len(rows), "num_transformer_submodules": 1,
            "num_attention_heads": first.heads, "token_dim": first.heads * first.width,
        }).save_pretrained(str(folder))
    else:
        tensors |= {f"base_model.{place.name}.prefix": tensor for place, tensor in rows.items()}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}, folder / WEIGHTS)


def load(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put a saved prefix, of either layout, and the parts that trained with it on the model they were trained on."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config["peft_type"] not in (OWN_TYPE, "PREFIX_TUNING"):
        raise CheckpointError(f"{folder / CONFIG}: peft_type {config['peft_type']!r} is no prefix; open it with peft.")
    tensors = load_file(folder / WEIGHTS)
    where = places(model)
    if config["peft_type"] == OWN_TYPE:
        keys = [f"base_model.{place.name}.prefix" for place in where]
        missing = [key for key in keys if key not in tensors]
        if missing:
            raise CheckpointError(f"{folder / WEIGHTS}: {missing[0]!r} is missing; it belongs to another model.")
        table = torch.cat([tensors.pop(key) for key in keys], 1)
    else:
        table = tensors.pop(PLAIN_KEY)
    columns = sum(place.columns for place in where)
    if table.shape != (config["num_virtual_tokens"], columns):
        raise CheckpointError(
            f"{folder / WEIGHTS}: a prefix of shape {tuple(table.shape)}, where {type(model).__name__} takes "
            f"{(config['num_virtual_tokens'], columns)}; it belongs to another model.")
    put_back(model, tensors, folder)
    parts = dict(model.named_modules())
    adapter = PrefixAdapter(
        places=tuple(where), tokens=config["num_virtual_tokens"], hidden=None,
        new=tuple(name for name in config["modules_to_save"] or () if name in parts),
        plain=config["peft_type"] == "PREFIX_TUNING", task_type=config["task_type"],
        base=config["base_model_name_or_path"] or "")
    attach(model, adapter, {"embedding.weight": table})
    model.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
    return model


def _adapter(model: PreTrainedModel) -> PrefixAdapter:
    adapter = model.llmkit_prefix
    assert isinstance(adapter, PrefixAdapter)
    return adapter
