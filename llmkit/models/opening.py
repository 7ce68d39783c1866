"""Opening a model: with the head that it was saved with or another one, an adapter over its base, in eval mode."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from llmkit.backbones.kernels.privates import processors
from llmkit.data.tokenizer_files import rows_for
from llmkit.models import ends, layout
from llmkit.models.base import Base
from llmkit.models.catalogue import CATALOGUE
from llmkit.models.checking.adapters import adapter_not_made, brought, check_adapter, check_taken, config_for
from llmkit.models.checking.computing import not_made
from llmkit.models.checking.weighing import check_finite, check_rows, check_size, check_types
from llmkit.models.edges import NO_END, give_ends, tell
from llmkit.models.fetch import place
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
from llmkit.models.quantizing import QUANTIZED, bits, check_installed, options, pour, prepared, taken_from
from llmkit.models.wheel import write_as_today
from llmkit.recipe import Quantization, registry
from llmkit.system.environment import prepare_torch
from llmkit.system.errors import CheckpointError, DataError, RequestError

log = logging.getLogger("llmkit")

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WRITERS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Auto classes of models that write text."""
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
    """Weights that neither the folder nor an adapter's base has: they are random."""


def open_model(
    model: str | Path | Base, head: str | None = None, *, dtype: str = "float32", in_full: bool = False,
    eight_bits: bool = False,
) -> Opened:
    """Load a model, or an adapter over its base, in eval mode and on the CPU.

    `head` is a transformers auto class; where it is None, the one that the model was saved with. `dtype` is torch's
    name of one: float32, bfloat16, float16. A base that was quantised while its adapter trained is so again; with
    `in_full` it has the same numbers, but whole ones. With `eight_bits`, the weights of linear layers are rounded to
    bytes, an adapter's changes first put into them, and what that changes is said; all else is of `dtype`.

    RequestError where weights are pickles or the base can't be found, or this machine has no products of 8 bits,
    CheckpointError where weights are damaged, or those of the model that was saved are missing.
    """
    prepare_torch()
    base = Base.open(model)
    if eight_bits:
        from llmkit.models.changing.rounding import opened_in_eight_bits

        return opened_in_eight_bits(base, head, dtype)
    with quiet():
        if base.is_adapter:
            return _open_adapter(base, head, dtype, in_full)
        config = base.config()
        kind = head or head_of(config)
        network, missing = _load(base, kind, config, dtype)
        if missing and (head is None or (head == head_of(config) and head != "AutoModel")):  # whose pooler may lack
            raise CheckpointError(f"{base.folder}: weights of its {kind} are missing ({len(missing)}, "
                                  f"{missing[0]} first): the file is damaged or half copied; get it anew.")
        check_finite(network, str(base.folder))
        network.eval()  # type: ignore[no-untyped-call]
        tokenizer = tokenizer_of(base.folder)
        _fitting(network, tokenizer, base, kind)
        return Opened(network, tokenizer, base.folder, kind, missing=missing)


def _fitting(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: Base, kind: str) -> None:
    """Give a model that writes its ends; say where it has none, and where tokens have no embeddings."""
    table = network.get_input_embeddings()
    rows, needed = getattr(table, "num_embeddings", None), rows_for(tokenizer)
    if rows is not None and needed > rows:
        log.warning("%s: %d tokens from id %d on have no embeddings; a text with one of them can't be read",
                    base.folder, needed - rows, rows)
        table.register_forward_pre_hook(partial(_check_texts, base.folder, rows))
    if rows is not None and 4 * needed < rows:
        log.warning("%s: its tokenizer has %s tokens, and the model embeddings of %s: it is hardly the tokenizer that "
                    "the model was trained with", base.folder, f"{needed:,}", f"{rows:,}")
    if kind in WRITERS:
        check_writing(network, base.folder)
        for entry in CATALOGUE.values():
            if entry.decoding and place(entry) == base.folder:
                write_as_today(network.generation_config, entry)
        if note := give_ends(tokenizer, base.said):
            log.info("%s: %s", base.folder, note)
            tell(network, tokenizer)
        if tokenizer.eos_token_id is None and network.generation_config.eos_token_id is None:
            log.warning("%s: %s", base.folder, NO_END)


def _check_texts(folder: Path, rows: int, table: Any, given: tuple[Any, ...]) -> None:
    if given and given[0].numel():
        check_ids(folder, rows, int(given[0].max()))


def check_ids(folder: Path, rows: int, largest: int) -> None:
    """DataError where a text has a token, the one of the largest id, that a table of embeddings has no row for."""
    if largest >= rows:
        raise DataError(f"{folder}: a text has the token {largest:,}, and the model has embeddings of {rows:,} tokens: "
                        "its tokenizer is another model's. Take the one that the model was trained with.")


def check_writing(network: PreTrainedModel, folder: Path) -> None:
    """RequestError where a model can't write by what its generation_config.json says, however it is asked.

    {"repetition_penalty": 0}  ->  … can't be used: `penalty` has to be a strictly positive float, but is 0
    """
    import torch

    if network.generation_config is None:
        return
    config = deepcopy(network.generation_config)
    config.max_new_tokens = 1
    ids = torch.zeros(1, 1, dtype=torch.long)
    try:
        processors(network, config, 1)(ids, torch.zeros(1, network.config.get_text_config().vocab_size))
    except UNREADABLE as error:
        raise RequestError(f"{folder / ends.FILE} can't be used: {in_one_line(error)}") from error


def kind_of(model: str | Path | Base) -> str:
    """The auto class that a model is opened with; an adapter's is that of the task that it was trained for."""
    base = Base.open(model)
    where = base if base.has_config or not base.is_adapter else base.below
    return _adapters_head(base.adapter) or head_of(where.config())


def _adapters_head(said: Mapping[str, Any]) -> str | None:
    """The auto class of the task that an adapter's config names; None where it names none that is known."""
    return PEFT_HEADS.get(str(said.get("task_type")))


def chats(model: str | Path | Base) -> bool:
    """Whether a model's tokenizer has a chat template; nothing is loaded."""
    base = Base.open(model)
    path = base.folder / "tokenizer_config.json"
    if not path.is_file() and base.is_adapter:
        return chats(base.below)
    said = read_json(path) if path.is_file() else {}
    return (base.folder / "chat_template.jinja").is_file() or said.get("chat_template") is not None


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


def _open_adapter(given: Base, head: str | None, dtype: str, in_full: bool) -> Opened:
    from torch import nn

    folder, adapter = given.folder, given.adapter
    if not (folder / layout.ADAPTER_WEIGHTS).is_file():
        raise RequestError(f"{folder} has no {layout.ADAPTER_WEIGHTS}: safetensors needed, pickles aren't read.")
    check_adapter(folder, adapter)
    base = given.below

    # The adapter's own config, where it has one, knows the number of labels; the base's, how many rows its table has.
    base_config = base.config()
    config = given.config() if given.has_config else base.config()
    packed = QUANTIZED in base.said  # by its own files: then its config is read as it is
    quantized = taken_from(config, f"{folder / layout.CONFIG}") if given.has_config and not packed else None
    rows = config.get_text_config().vocab_size
    config.get_text_config().vocab_size = base_config.get_text_config().vocab_size
    tokenized = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = tokenizer_of(folder if tokenized else base.folder)
    kind = head or _adapters_head(adapter) or head_of(config)
    model, missing = _load_below(base, kind, config, dtype, quantized, in_full)
    rows = max(rows, len(tokenizer) if tokenized else 0)
    if rows > config.get_text_config().vocab_size:
        check_rows(folder, model, rows)
        model.resize_token_embeddings(rows, mean_resizing=False)
    tuned = _tuned(model, given, kind == (_adapters_head(adapter) or head_of(config)))
    ends.read(model, folder)
    if kind in WRITERS:
        check_writing(model, folder)
    check_finite(tuned, str(folder))
    nn.Module.to(tuned, dtype_of(dtype))  # transformers refuses it of a quantised base, whose layers it leaves alone
    held = brought(folder, missing)
    return Opened(tuned.eval(), tokenizer, folder, kind,
                  int(adapter.get("num_virtual_tokens") or 0), tuple(name for name in missing if name not in held))


def _load_below(
    base: Base, head: str, config: PretrainedConfig, dtype: str, quantized: Quantization | None, in_full: bool,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model below an adapter, held as it was while that trained, or with the same numbers in full."""
    if quantized is None:
        return _load(base, head, config, dtype)
    check_installed(f"{base.folder}: it was held in {bits(quantized)} bits while the adapter over it trained; that")
    packed, missing = _load(base, head, deepcopy(config), dtype, quantized)
    if not in_full:
        return packed, missing
    whole, missing = _load(base, head, config, dtype)
    pour(packed, whole)
    log.info("%s: its weights are those of %d bits, in full: what the adapter over it was trained with", base.folder,
             bits(quantized))
    return whole, missing


def _tuned(model: PreTrainedModel, given: Base, own_head: bool) -> Any:
    """A model under an adapter, which llmkit's own method or peft reads; CheckpointError where it can't be read.

    Under another head than its own, what the adapter has for that is left aside.
    """
    try:
        own = OWN_ADAPTERS.get(given.adapter.get("peft_type") or "")
        if own is not None:
            return registry.module(f"llmkit.tuning.{own}").load(model, given.folder)
        from peft import PeftModel

        config = config_for(model, given.folder, given.adapter)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            tuned = PeftModel.from_pretrained(model, given.folder, config=config, local_files_only=True)
    except (*UNREADABLE, SafetensorError) as error:
        raise adapter_not_made(given.folder, given.adapter, error) from error
    check_taken(given.folder, tuned, [str(one.message) for one in warned], own_head)
    return tuned


def _load(
    base: Base, head: str, config: PretrainedConfig, dtype: str, quantized: Quantization | None = None,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model and the names of its weights that the folder doesn't have. Where it can, transformers picks sdpa."""
    import transformers

    base.check_weights()
    try:
        model, about = getattr(transformers, head).from_pretrained(
            base.folder, config=config, dtype=dtype_of(dtype), output_loading_info=True, **NO_CODE,
            **({} if quantized is None else options(quantized)))
    except (*UNREADABLE, SafetensorError) as error:
        raise not_made(base.folder, config, head, error) from error
    prepared(model)
    return model, tuple(sorted(about["missing_keys"]))


def beside(auto: Any, folder: Path, **options: Any) -> Any:
    """A network that a run left beside its model, by its auto class; CheckpointError where it can't be read."""
    check_weights(folder)
    if (folder / layout.ADAPTER).is_file():  # transformers would open the base that it names, wherever that is
        raise CheckpointError(f"{folder}: {layout.ADAPTER} is beside the weights; a network of a run is whole.")
    config = config_of(folder)
    check_size(folder, config)
    check_types(folder, config)
    try:
        return auto.from_pretrained(folder, config=config, **NO_CODE, **options)
    except (*UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights can't be read: {in_one_line(error)}") from error


def check_model(model: Any) -> None:
    """RequestError for what is no model here: a network of transformers, None, a list."""
    if not isinstance(model, str | Path | Opened):
        raise RequestError("model: a run, a folder, a hub id, a catalogue name or an opened model is needed "
                           f"(llmkit.models.open_model), not a {type(model).__name__}; save_pretrained makes a "
                           "folder of a network, with its tokenizer's beside it.")
