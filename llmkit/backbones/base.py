"""What llmkit needs to know of a model family: its shape, its sizes, and the names of its parts."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from llmkit.backbones.kernels.privates import attention_of, unasked
from llmkit.data.tokenizer_files import rows_for
from llmkit.recipe import MOST_LAYERS
from llmkit.recipe.promises import FAMILY
from llmkit.recipe.watching import required, watch
from llmkit.system.errors import RequestError, nearest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


FLEX, FLASH = "flex_attention", "flash_attention_2"
"""Ways to attend that keep documents apart without a dense mask."""
WRITE = ("decoder", "encoder-decoder")
"""Shapes whose models can keep keys and values for the next token."""


class Family:
    """A family of models. Everything here is about names; the models are transformers' own."""

    model_type: ClassVar[str] = required("the `model_type` of its transformers config: 'bert'")
    """The `model_type` of its transformers config."""
    shape: ClassVar[str] = required("encoder, decoder, encoder-decoder or permuted")
    """encoder, decoder, encoder-decoder or permuted."""
    tokenizer: ClassVar[str] = required("the kind of tokenizer that is trained for it: wordpiece, bpe or unigram")
    """The kind of tokenizer that is trained for it."""
    special: ClassVar[str | None] = None
    """Whose special tokens a tokenizer trained for it has (data/tokenizer.py); None: those of its kind's own family."""
    sizes: ClassVar[dict[str, dict[str, Any]]] = required("config fields by the name of a size: {'tiny': {…}}")
    """Config fields by the name of a size."""
    positions: ClassVar[str | None] = required(
        "the config field with the number of positions, or None where they are relative")
    """The config field with the number of positions; None where positions are relative."""
    layers: ClassVar[tuple[str, ...]] = required("the dotted paths of its stacks of layers: ('encoder.layer',)")
    """Dotted paths of the stacks of layers."""
    shares: ClassVar[bool] = False
    """Whether its layers share their weights."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """Dotted paths of what stands below the layers, besides tables and parts named after embeddings."""
    projections: ClassVar[tuple[str, ...]] = ()
    """Linear layers that low-rank products go to, where peft has no choice of its own for the family."""
    feed_forward: ClassVar[tuple[str, ...]] = required("the parts of a layer that are feed-forward: ('mlp',)")
    """Parts of a layer that are feed-forward."""
    heads: ClassVar[dict[str, str]] = required(
        "the part of each auto class that makes its logits: {'AutoModelForCausalLM': 'lm_head'}")
    """Auto class to the part that turns hidden states into its logits."""
    plain: ClassVar[bool] = True
    """Whether its logits over words are what its last linear layer makes, and perhaps `logits_bias`."""
    logits_bias: ClassVar[str | None] = None
    """What is added to them after that layer: the name of a buffer (1, vocabulary)."""
    poolers: ClassVar[tuple[str, ...]] = ()
    """Parts that only a head over whole texts reads: they train with it where it is new."""
    pooling: ClassVar[str] = ""
    """The config field that says whether its classifier reads the first token or the mean; "" where it can't choose."""
    pairs: ClassVar[str] = ""
    """The auto class whose head tells whether two texts follow each other; "" where there is none."""
    detector: ClassVar[str] = "AutoModelForTokenClassification"
    """The auto class whose head tells of each token whether it was replaced."""
    idle: ClassVar[bool] = False
    """Whether it has weights that no task reads."""
    attention: ClassVar[str] = "sdpa"
    """The implementation of attention that transformers has for it."""
    unpads: ClassVar[bool] = False
    """Whether its layers can do without padding: they see hidden states and an attention mask, no other rows."""
    mixes: ClassVar[str] = ""
    """Why documents that share a row would see each other; "" where they don't."""
    optimizer: ClassVar[str] = "adamw"
    """What moves its weights where they are random, all train, and the recipe names no optimizer."""
    small: ClassVar[dict[str, Any]] = {}
    """Config fields that make the size tiny smaller still, 32 wide: models for tests, made in no time."""
    still: ClassVar[tuple[str, ...]] = ()
    """The config fields of its dropouts: at 0, a step depends on its rows and nothing else."""

    def __init_subclass__(cls) -> None:
        """People's own are looked at as they are called."""
        super().__init_subclass__()
        watch(cls, FAMILY)

    @classmethod
    def config(cls, size: str | None, fields: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
        """The config of a new model: a named size, the tokenizer's ids, and over both what the recipe says."""
        from transformers import AutoConfig

        ids = {
            "vocab_size": rows_for(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        named = cls.sizes[size] if size is not None else {}
        return AutoConfig.for_model(cls.model_type, **{**named, **ids, **cls.own_ids(tokenizer), **fields})

    @classmethod
    def own_ids(cls, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Config fields of this family alone that follow from the tokenizer."""
        return {}

    @classmethod
    def decoder_start(cls, tokenizer: PreTrainedTokenizerBase) -> int:
        """The token that a decoder starts from, in an encoder-decoder."""
        return int(tokenizer.pad_token_id or 0)

    @classmethod
    def check_config(cls, fields: dict[str, Any]) -> None:
        """Raise RequestError where a field isn't one of the family's config, or its value can't be one."""
        from transformers import AutoConfig

        default = AutoConfig.for_model(cls.model_type)
        known = {name for name in vars(default) if not name.startswith("_")} | set(default.attribute_map)
        known |= {name for size in cls.sizes.values() for name in size}  # DeBERTa's has fields without a default
        for name, value in fields.items():
            if name not in known:
                raise RequestError(f"backbone.config.{name}: no such field of {cls.model_type}.{nearest(name, known)}")
            if re.search("layer|group", name) and type(value) is int and value > MOST_LAYERS:
                raise RequestError(f"backbone.config.{name}: {value} is more than the {MOST_LAYERS:,} that are built.")
            usual = getattr(default, name, None)
            if type(usual) is int and usual > 0 and (type(value) is not int or value <= 0):
                raise RequestError(f"backbone.config.{name}: {value!r} must be a whole number above 0.")
            if type(usual) is float and (type(value) not in (int, float) or value < 0):
                raise RequestError(f"backbone.config.{name}: {value!r} must be a number, 0 or above.")
        try:
            AutoConfig.for_model(cls.model_type, **cls.numbers(fields))
        except Exception as error:  # what checks the fields' types raises errors of its own
            raise RequestError(f"backbone.config: {' '.join(str(error).split())}") from error

    @classmethod
    def numbers(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields as transformers takes them: {'router_aux_loss_coef': 0}  ->  {'router_aux_loss_coef': 0.0}."""
        from transformers import AutoConfig

        default = AutoConfig.for_model(cls.model_type) if fields else None
        return {name: float(value) if type(value) is int and type(getattr(default, name, None)) is float else value
                for name, value in fields.items()}

    @classmethod
    def position_limit(cls, config: PretrainedConfig) -> int | None:
        """How many positions a model has; None where there is no limit."""
        return None if cls.positions is None else int(getattr(config, cls.positions))

    @classmethod
    def outputs(cls, model: nn.Module, batch: dict[str, Tensor]) -> Any:
        """Call the model on a batch; documents that share a row don't see each other.

        `documents` (batch, length) numbers the document that each token is of, `decoder_documents` the same for the
        decoder. Encoders and decoders get a mask and positions that start again; an encoder-decoder is called in two
        parts, for encoder and cross-attention need different masks and transformers has one argument for both.
        `prefix` (batch, length), for decoders, marks positions that all of their document may see.
        """
        import torch

        inputs: dict[str, Any] = dict(batch)
        documents, targets = inputs.pop("documents", None), inputs.pop("decoder_documents", None)
        prefix = inputs.pop("prefix", None)
        if documents is None and prefix is not None:  # padding is a document of its own
            documents = inputs.get("attention_mask", torch.ones_like(prefix)) - 1
        if documents is None:
            if cls.shape in WRITE:
                inputs["use_cache"] = False  # nobody reads the keys and values that a model would keep
            with cls._asking(batch):
                return model(**inputs)
        way = attention_of(model)
        if way == "eager":
            raise RequestError("data.packing: documents needs attention that takes a mask of booleans; open the model "
                               "with attn_implementation='sdpa', or choose blocks or none.")
        inputs.pop("attention_mask", None)
        if way in (FLEX, FLASH):
            from llmkit.backbones.kernels import apart

            with cls._asking(batch):
                if way == FLEX:
                    return cls.isolated(model, inputs, apart.in_blocks(documents, cls.shape == "decoder", prefix),
                                        restart(documents))
                return cls.isolated(model, apart.one_row(inputs, documents), None, restart(documents).flatten()[None])
        if targets is None:
            seen = same(documents, documents)
            if cls.shape == "decoder":
                seen = seen.tril() if prefix is None else seen.tril() | seen & (prefix[:, None, None, :] > 0)
            return cls.isolated(model, inputs, seen, restart(documents))
        encoder = model.get_encoder()  # type: ignore[operator]
        hidden = encoder(input_ids=inputs.pop("input_ids"), attention_mask=same(documents, documents))
        return model(
            encoder_outputs=hidden, attention_mask=same(targets, documents),
            decoder_attention_mask=same(targets, targets).tril(), use_cache=False, **inputs)


    @classmethod
    def _asking(cls, batch: dict[str, Tensor]) -> AbstractContextManager[None]:
        """While the block runs, transformers asks a device for nothing that is known; a host may be asked."""
        on_host = next(iter(batch.values())).device.type == "cpu"
        return nullcontext() if on_host else unasked()

    @classmethod
    def isolated(cls, model: nn.Module, inputs: dict[str, Any], seen: Any, positions: Tensor) -> Any:
        """Call an encoder or a decoder where each query sees the keys that `seen` (batch, 1, q, k) says.

        Under FlexAttention that are its blocks; under FlashAttention None, for the inputs say where documents begin.
        """
        if cls.shape == "decoder":
            return model(**inputs, attention_mask=seen, position_ids=positions, use_cache=False)
        return model(**inputs, attention_mask=seen, position_ids=positions)


def same(queries: Tensor, keys: Tensor) -> Tensor:
    """Which key a query may see: those of its own document. (batch, q), (batch, k) -> (batch, 1, q, k), bool."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


def restart(documents: Tensor) -> Tensor:
    """Positions that start again with each document: 0 0 0 1 1 -> 0 1 2 0 1."""
    import torch

    steps = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return steps - torch.where(first, steps, 0).cummax(1).values


def place(model: PreTrainedModel, path: str) -> str | None:
    """What a family's dotted path is called in this model; None where this model has no such part.

    Some classes hold the base model under another name, some are the base model:
    `model.layers` -> `transformer.layers` in LlamaForQuestionAnswering, `layers` in LlamaModel
    """
    names = {name for name, _ in model.named_modules()}
    base, inner = model.base_model_prefix, path.partition(".")[2]
    return next((name for name in (path, f"{base}.{path}", f"{base}.{inner}", inner) if name in names), None)


def stacks_of(model: PreTrainedModel, family: type[Family]) -> list[list[str]]:
    """The names of the layers of each stack, the lowest first."""
    found = [name for path in family.layers if (name := place(model, path)) is not None]
    return [[f"{name}.{i}" for i, _ in enumerate(model.get_submodule(name).children())] for name in found]
