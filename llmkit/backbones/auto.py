"""Any other family: what llmkit has to know of it is read from a pretrained model's config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")


class Auto(Family):
    """`family: auto` with `pretrained`: a hub id or a folder. `like` makes the family once the config is there."""

    model_type = "auto"
    shape = "any"
    tokenizer = "bpe"
    sizes = {}
    positions = None
    layers = ()
    feed_forward = ()
    heads = {}
    plain = False
    mixes = "nothing is known of its attention"

    @classmethod
    def like(cls, config: PretrainedConfig) -> type[Family]:
        """The family of a config: its shape, its heads and how many positions it has.

        RequestError where transformers has no head over words for it.
        """
        from transformers.models.auto import modeling_auto as auto

        tables: dict[str, dict[str, Any]] = {
            "AutoModelForSeq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
            "AutoModelForMaskedLM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            "AutoModelForSequenceClassification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
            "AutoModelForTokenClassification": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
            "AutoModelForMultipleChoice": auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
            "AutoModelForQuestionAnswering": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        }
        has = [head for head, names in tables.items() if config.model_type in names]
        shapes = {"AutoModelForSeq2SeqLM": "encoder-decoder", "AutoModelForMaskedLM": "encoder",
                  "AutoModelForCausalLM": "decoder"}
        if not has or has[0] not in shapes:
            raise RequestError(f"backbone.family: transformers has no language model for a {config.model_type!r}.")
        words = has[0]  # an encoder's table of causal models comes after the one that tells what it is
        has = [head for head in has if head not in shapes or head == words]
        start = getattr(config, "decoder_start_token_id", None)
        return type("Auto", (cls,), {
            **({} if start is None else {"decoder_start": classmethod(lambda cls, tokenizer: start)}),
            "model_type": config.model_type, "shape": shapes[words],
            "heads": {head: _last(config, head) for head in has},
            "positions": next((name for name in _POSITIONS if isinstance(getattr(config, name, None), int)), None)})


def _last(config: PretrainedConfig, head: str) -> str:
    """The part of a model that makes its logits: the output embedding, or the last part that has weights."""
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, head).from_config(config)
    table = model.get_output_embeddings() if head.endswith("LM") else None
    if table is not None:
        return str(next(name for name, part in model.named_modules() if part is table))
    return [str(name) for name, part in model.named_children() if any(True for _ in part.parameters())][-1]
