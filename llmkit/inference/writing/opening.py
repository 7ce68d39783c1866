"""Which models write, in which numbers and on which device they are opened, and what the others are for."""

from __future__ import annotations

from pathlib import Path

from llmkit import models
from llmkit.backbones.kernels import privates
from llmkit.planning.choices import OVERFLOW
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
