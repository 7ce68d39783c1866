"""Which models write, in which numbers and on which device they are opened, and what the others are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmkit import models
from llmkit.backbones.kernels import privates
from llmkit.inference.writing.context import base_of
from llmkit.inference.writing.sampling import CHOOSE
from llmkit.models import Opened
from llmkit.models.changing.rounding import INT8, check_rounds
from llmkit.models.files import dtype_of
from llmkit.planning.choices import OVERFLOW, lacks_compiler
from llmkit.system import devices, machine

WRITERS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Auto classes of models that write."""

INSTEAD = {
    "AutoModelForMaskedLM": "fills masks (`llmkit generate` with a mask in the prompt)",
    "AutoModelForPreTraining": "tells what was done to a text (fine-tune it: `llmkit finetune --task …`)",
    "AutoModelForSequenceClassification": "labels texts (`llmkit classify`, `llmkit predict`)",
    "AutoModelForTokenClassification": "labels words (`llmkit tag`, `llmkit predict`)",
    "AutoModelForQuestionAnswering": "finds answers in a text (`llmkit answer`, `llmkit predict`)",
    "AutoModelForMultipleChoice": "chooses among answers (`llmkit predict`)",
    "AutoModelForNextSentencePrediction": "tells whether sentences follow each other (`llmkit evaluate`)",
    "AutoModel": "turns texts into vectors (`llmkit search`)",
}
"""What models that write nothing are for, by the auto class that they are opened with."""


def unwritten(name: str, kind: str) -> str:
    """Why a model of a kind can't write, and what to use it, or something else, for."""
    return (f"{name} doesn't write any text: it {INSTEAD[kind]}. To write, use a decoder (gpt2, llama) or an "
            "encoder-decoder (t5).")


def numbers(folder: Path) -> tuple[str, str]:
    """The dtype and the device to generate with: on a GPU its 16 bits, on a CPU bf16 where its cores are faster in it.

    A token reads every weight once, so half the bytes is the gain; a narrow model fits in the cache and has none.
    """
    if not devices.on_cpu():
        best = machine.gpu_numbers()
        if best == "fp16" and models.config_of(folder).model_type in OVERFLOW:
            best = "fp32"
        return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[best], devices.kind()
    if not (folder / "config.json").is_file():
        return "float32", "cpu"
    config = models.config_of(folder)
    wide = config.get_text_config().hidden_size >= 256
    return ("bfloat16" if wide and privates.onednn_multiplies_bf16() else "float32"), "cpu"


def chosen_numbers(folder: Path, dtype: str | None, usual: str | None = None) -> tuple[dict[str, Any], str]:
    """(what `models.open_model` is told, the device): the numbers that somebody chose, or `usual`, or else the fastest.

    int8  ->  {"dtype": "bfloat16", "eight_bits": True}, "cpu"
    """
    fast, device = numbers(folder)
    if dtype == INT8:
        return {"dtype": usual or fast, "eight_bits": True}, device
    return {"dtype": dtype or usual or fast}, device


def check_numbers(dtype: str | None) -> None:
    """RequestError, before anything is fetched, where a `--dtype` is none, or can't be computed with here."""
    if dtype == INT8:
        check_rounds(f"--dtype {INT8}")
    elif dtype is not None:
        dtype_of(dtype)


def no_graphs(kind: str) -> str:
    """Why a kind of device has no compiled steps; "" where it has."""
    if kind not in CHOOSE:
        return f"steps are compiled on GPUs, and here it is a {devices.NAMES.get(kind, kind)} that writes"
    return lacks_compiler() or ""


def uncompiled(opened: Opened, device: str) -> str:
    """Why what a model writes on a device can't be written by compiled steps; "" where it can."""
    model = base_of(opened.model)
    if why := no_graphs(device.partition(":")[0]):
        return why
    if opened.virtual_tokens:
        return "its adapter's virtual tokens bring keys and values of their own, which a cache of fixed size can't take"
    if not privates.leaves_batches(model) or not privates.compiles_whole(model):
        return f"transformers' {type(model).__name__} has no cache of fixed size"
    if privates.records(model, "router_logits"):
        return "which experts a layer needs is known when it runs"
    if quantizer := vars(model).get("hf_quantizer"):
        method: Any = quantizer.quantization_config.quant_method
        return f"layers of {getattr(method, 'value', method)} aren't compiled"
    return ""
