"""Opening a model: with the head that it was saved with or another one, an adapter over its base, in eval mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from llmkit.models import layout
from llmkit.models.fetch import resolve
from llmkit.models.files import (
    NO_CODE,
    UNREADABLE,
    check_weights,
    config_of,
    dtype_of,
    in_one_line,
    quiet,
    read_json,
    tokenizer_of,
)
from llmkit.system.environment import prepare_torch
from llmkit.system.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

OWN_ADAPTERS = {"LLMKIT_PREFIX": "prefix", "PREFIX_TUNING": "prefix", "LLMKIT_PROMPT": "prompt",
                "PROMPT_TUNING": "prompt"}
"""Values of `peft_type` in adapter_config.json that llmkit reads itself, and the tuning method whose `load` does: peft
has no such adapter, or drops some of the model's inputs (prefixes of encoders), or numbers the positions of padded rows
wrongly (prompts)."""
PEFT_HEADS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True)
class Opened:
    """A model in eval mode, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    kind: str
    """The auto class that it was opened with: `AutoModelForCausalLM`, …"""
    virtual_tokens: int = 0
    """Positions that an adapter's prefix or prompt takes from the model's."""
    missing: tuple[str, ...] = ()
    """Weights that the folder doesn't have: they are random."""


def open_model(name: str | Path, head: str | None = None, *, dtype: str = "float32") -> Opened:
    """Load a model, or an adapter over its base, in eval mode and on the CPU.

    `head` is a transformers auto class; where it is None, the one that the model was saved with. `dtype` is torch's
    name of one: float32, bfloat16, float16. RequestError where weights are pickles or the base can't be found,
    CheckpointError where weights are damaged or, with no `head` asked for, missing.
    """
    prepare_torch()
    folder = resolve(name)
    with quiet():
        if (folder / layout.ADAPTER).is_file():
            return _open_adapter(folder, head, dtype)
        config = config_of(folder)
        kind = head or head_of(config)
        model, missing = _load(folder, kind, config, dtype)
        if missing and head is None:
            raise CheckpointError(f"{folder} lacks {len(missing)} weights of its {kind}, {missing[0]} first.")
        model.eval()  # type: ignore[no-untyped-call]
        return Opened(model, tokenizer_of(folder), folder, kind, missing=missing)


def kind_of(folder: Path) -> str:
    """The auto class that a folder's model is opened with; an adapter's is that of the task that it was trained for."""
    path = folder / layout.ADAPTER
    if path.is_file():
        adapter = read_json(path)
        where = folder if (folder / "config.json").is_file() else _base(folder, adapter)
        return PEFT_HEADS.get(adapter.get("task_type") or "") or head_of(config_of(where))
    return head_of(config_of(folder))


def chats(folder: Path) -> bool:
    """Whether a model's tokenizer has a chat template; nothing is loaded."""
    path = folder / "tokenizer_config.json"
    if not path.is_file() and (folder / layout.ADAPTER).is_file():
        return chats(_base(folder, read_json(folder / layout.ADAPTER)))
    said = read_json(path) if path.is_file() else {}
    return (folder / "chat_template.jinja").is_file() or said.get("chat_template") is not None


def head_of(config: PretrainedConfig) -> str:
    """The auto class that a config's model was saved with; where it doesn't say, one that writes or fills in text."""
    from transformers.models.auto import modeling_auto as auto

    classes: dict[str, dict[str, Any]] = {
        "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSeq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForMaskedLM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "AutoModelForPreTraining": auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
        "AutoModelForSequenceClassification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForTokenClassification": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForQuestionAnswering": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        "AutoModelForMultipleChoice": auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
        "AutoModelForNextSentencePrediction": auto.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
        "AutoModel": auto.MODEL_MAPPING_NAMES,
    }
    saved = (config.architectures or [""])[0]
    for head, names in classes.items():
        if saved and names.get(config.model_type) == saved:
            return head
    if config.is_encoder_decoder:
        return "AutoModelForSeq2SeqLM"
    # BERT and its kin are in the table of causal models too; what tells them from decoders is that they fill in masks.
    for head in ("AutoModelForMaskedLM", "AutoModelForCausalLM"):
        if config.model_type in classes[head]:
            return head
    return "AutoModel"


def _open_adapter(folder: Path, head: str | None, dtype: str) -> Opened:
    adapter = read_json(folder / layout.ADAPTER)
    if not (folder / layout.ADAPTER_WEIGHTS).is_file():
        raise RequestError(f"{folder} has no {layout.ADAPTER_WEIGHTS}: safetensors needed, pickles aren't read.")
    base = _base(folder, adapter)

    # The adapter's own config, where it has one, knows the number of labels; the base's, how many rows its table has.
    base_config = config_of(base)
    config = config_of(folder) if (folder / "config.json").is_file() else config_of(base)
    rows = config.get_text_config().vocab_size
    config.get_text_config().vocab_size = base_config.get_text_config().vocab_size
    tokenized = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = tokenizer_of(folder if tokenized else base)
    kind = head or PEFT_HEADS.get(adapter.get("task_type") or "") or head_of(config)
    model, missing = _load(base, kind, config, dtype)
    rows = max(rows, len(tokenizer) if tokenized else 0)
    if rows > config.get_text_config().vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)

    tuned: Any
    try:
        if adapter.get("peft_type") in OWN_ADAPTERS:
            tuned = import_module(f"llmkit.tuning.{OWN_ADAPTERS[adapter['peft_type']]}").load(model, folder)
        else:
            from peft import PeftModel

            tuned = PeftModel.from_pretrained(model, folder, local_files_only=True)
    except (*UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the adapter can't be read: {in_one_line(error)}") from error
    return Opened(tuned.to(dtype_of(dtype)).eval(), tokenizer, folder, kind,
                  int(adapter.get("num_virtual_tokens") or 0), missing)


def _base(folder: Path, adapter: Mapping[str, Any]) -> Path:
    """The folder of the model that an adapter stands on."""
    try:
        base = resolve(str(adapter.get("base_model_name_or_path") or ""))
    except RequestError as error:
        raise RequestError(f"{folder / layout.ADAPTER}: base_model_name_or_path: {error}") from error
    if (base / layout.ADAPTER).is_file():
        raise RequestError(f"{folder}: its base {base} is an adapter too; merge that into its own base first.")
    return base


def _load(
    folder: Path, head: str, config: PretrainedConfig, dtype: str
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model and the names of its weights that the folder doesn't have. Where it can, transformers picks sdpa."""
    import transformers

    check_weights(folder)
    try:
        model, about = getattr(transformers, head).from_pretrained(
            folder, config=config, dtype=dtype_of(dtype), output_loading_info=True, **NO_CODE)
    except (*UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights can't be read: {in_one_line(error)}") from error
    return model, tuple(sorted(about["missing_keys"]))


def beside(auto: Any, folder: Path, **options: Any) -> Any:
    """A network that a run left beside its model, by its auto class; CheckpointError where it can't be read."""
    check_weights(folder)
    try:
        return auto.from_pretrained(folder, config=config_of(folder), **NO_CODE, **options)
    except (*UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights can't be read: {in_one_line(error)}") from error
