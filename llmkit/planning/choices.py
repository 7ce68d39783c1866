"""What a recipe leaves open: `precision`, `micro_batch_size` and `compile` by the machine, rates by the method."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_start_method
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from llmkit import recipe
from llmkit.backbones.base import Family
from llmkit.backbones.kernels.privates import has_avx512_bf16, onednn_multiplies_bf16
from llmkit.recipe import registry
from llmkit.system import devices, machine
from llmkit.system.errors import RequestError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AT_ONCE = {"cpu": 4_096, "mps": 4_096, "cuda": 16_384, "xpu": 16_384, "npu": 16_384}
"""Tokens of a micro-batch where memory allows: more of them make no step faster."""
JUDGED_AT_ONCE = {**AT_ONCE, "cpu": 2_048}
"""Tokens of a batch of short rows that are only judged: there is no gradient to keep, and a CPU's cache is small."""
WORKERS = 4
"""Processes that prepare batches for one that trains, at most."""
OVERFLOW = frozenset({"t5", "umt5", "mt5"})
"""Model types whose activations fp16 can't hold."""
WIDTH = 128
"""From this width on, what bf16 saves in products is more than what its conversions cost."""
LETTERS = 4
"""Bytes of a token, about; a run by passes over its data is measured by them before it is tokenized."""
STEPS, TOKENS, MINUTES = 1_000, 50_000_000, 10
"""A run of so many steps, tokens or minutes earns the time that compiling takes on a GPU."""
DROPOUTS = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout", "dropout_rate", "dropout")
"""What configs call the dropout of attention's weights."""


Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]

# ---- how large ----


@dataclass(frozen=True)
class Size:
    """What a model takes, estimated from its config before it is made."""

    parameters: int
    width: int
    activations: int
    """Bytes a token that the forward pass keeps for the backward pass, in fp32, without what grows with the length."""
    attention: int
    """Bytes for each pair of tokens of a row: attention's weights, where they are kept."""
    state: int
    """Bytes of weights, gradients and optimizer where everything trains."""
    quantized: int | None = None
    """Bytes of the base where it is quantised."""

    @property
    def weights(self) -> int:
        """Bytes of the weights as they are held."""
        return 4 * self.parameters if self.quantized is None else self.quantized

    def row(self, length: int) -> int:
        """Bytes of activations that a row of `length` tokens takes."""
        return length * (self.activations + self.attention * length)


def size(
    model: PreTrainedModel, family: type[Family], vocabulary: int | None = None, chunked: bool = True,
    states: float = 2.0,
) -> Size:
    """The size of a model; one without weights (on torch's meta device) will do. `vocabulary`: if it will be another.
    `chunked`: whether the loss is made in chunks, so that no logits are kept where the family's head allows it.
    `states`: numbers that the optimizer keeps for each weight.

    A layer keeps what goes into its linear layers and what comes out of them, and little more: Korthikanti et al. 2022,
    "Reducing Activation Recomputation in Large Transformer Models", eq. 1, count 34 bytes a token and unit of width in
    16 bits, 17 numbers; in and out of the layer's linear layers there are 18. Their 5 a s / h, for attention's weights,
    is added where those are kept: by eager attention, and on a CPU where dropout is applied to them. What a
    step keeps is between half of this and twice as much; of DeBERTa, up to four times.
    """
    from torch import nn

    config: Any = model.config.get_text_config()
    table = model.get_input_embeddings()
    words = table.num_embeddings if isinstance(table, nn.Embedding) else 0
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    repeated = config.num_hidden_layers if family.shares else 1
    numbers = 0.0
    for part in model.modules():
        weight = getattr(part, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(part, nn.Embedding) \
                and words not in weight.shape:  # a head's logits are counted below
            numbers += sum(weight.shape) * repeated
    vocabulary = vocabulary or words
    if output is not None and not (chunked and family.plain):
        # of an encoder's positions few are targets; a logit is kept twice, as it is and as its softmax
        numbers += 2 * vocabulary * (0.15 if family.shape == "encoder" else 1.0)
    kept = 0
    if family.attention == "eager":
        kept = 8  # scores of content and of position, their sum, and what is made of it
    elif devices.on_cpu() and any(getattr(config, name, 0) for name in DROPOUTS):
        kept = 3
    layers = config.num_hidden_layers * (2 if family.shape == "encoder-decoder" else 1)
    parameters = sum(parameter.numel() * vocabulary // words if words in parameter.shape else parameter.numel()
                     for parameter in model.parameters())
    return Size(parameters, config.hidden_size, int(4 * numbers), 4 * kept * layers * config.num_attention_heads,
                int((8 + 4 * states) * parameters))


# ---- how many rows at once ----


def micro_batch_size(share: int, length: int, model: Size, adapter: bool, memory: int) -> tuple[int, str]:
    """(rows, why): the most that divide a process's share of a step and are no more than a device digests at once.

    `memory` is what a process may use, in bytes. What an adapter doesn't train needs no gradients and no optimizer.
    """
    most = AT_ONCE[devices.kind()]
    quick = max(divisors(share, most // length))
    left = memory - (model.weights if adapter else model.state)
    room = max(0, left // 2)  # the rest is for Python, the libraries, data and work space
    rows = max(divisors(quick, room // model.row(length)))
    if rows < quick:
        return rows, f"of {memory / 1e9:.1f} GB of memory, {room / 1e9:.1f} GB are for activations"
    if rows == share:
        return rows, "a process's whole share of a step"
    return rows, f"up to {most:,} tokens at once are quickest"


def divisors(whole: int, most: int) -> Iterator[int]:
    """The numbers from 1 to `most` that divide a whole; 1 always does.

    >>> list(divisors(12, 5))
    [1, 2, 3, 4]
    """
    yield 1
    yield from (n for n in range(2, min(whole, most) + 1) if whole % n == 0)


def workers() -> tuple[int, str]:
    """(processes that prepare batches beside each that trains, why); on a CPU they would take its cores."""
    if devices.on_cpu():
        return 0, "the cores train"
    if get_start_method() != "fork":
        return 0, "this system starts processes anew, each with libraries of its own"
    spare = machine.cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) - 1
    count = min(WORKERS, max(0, spare))
    return count, "they prepare batches while the GPU computes" if count else "no core is left for them"


def at_once() -> int:
    """Positions that are judged at once here, where rows are short enough for more of them than a batch's rows."""
    return JUDGED_AT_ONCE[devices.kind()]


# ---- which numbers ----


def precision(width: int, family: type[Family] | None = None) -> tuple[Precision, str]:
    """(precision, why): 16 bits where the machine multiplies them faster than fp32 and the model is wide enough for it.

    A GPU without bf16 of its own takes fp16, but for a family whose activations don't fit in it.
    """
    if not devices.on_cpu():
        best = machine.gpu_numbers()
        if best == "bf16":
            return "bf16", "this GPU multiplies bf16 faster"
        if devices.kind() == "mps":
            return "fp32", "what 16 bits bring on a Mac's GPU was never measured"
        if best == "fp32":
            return "fp32", "this GPU has neither bf16 nor fast fp16"
        if family is not None and overflows(family):
            return "fp32", f"this GPU has no bf16, and {family.model_type}'s activations overflow in fp16"
        return "fp16", "this GPU has no bf16, and multiplies fp16 faster; its loss is scaled"
    if not cpu_multiplies_bf16():
        return "fp32", "this CPU has no instructions for bf16"
    if width < WIDTH:
        return "fp32", f"a model {width} wide is slower in bf16: below {WIDTH}, conversions cost more than they save"
    return "bf16", "this CPU multiplies bf16 faster; weights and optimizer stay in fp32"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products (AVX512-BF16 or AMX); without them fp32 is faster."""
    return onednn_multiplies_bf16() and has_avx512_bf16()


def check_frozen(request: recipe.Recipe, family: type[Family], pretrained: bool) -> None:
    """RequestError where `training.cache_frozen` can't be: rows must stay as they are, and the layers below too."""
    plan = request.training
    if not plan.cache_frozen:
        return
    why = next((why for why, holds in (
        ("an objective draws its rows anew in each pass; a task's rows stay as they are", request.task is None),
        ("a model from random weights has nothing to keep", not pretrained),
        (f"it is for one stack of layers with weights of their own, which a {family.model_type} hasn't",
         family.shape not in ("encoder", "decoder") or not family.layers or family.shares),
        ("the tuning method puts virtual tokens before each row", request.tuning.virtual_tokens > 0),
        ("with a teacher, whole models are compared", request.teacher is not None),
        ("the rows of a step are compared with each other", request.learning.whole),
        ("training.gradient_checkpointing computes layers again", plan.gradient_checkpointing),
        ("training.compile makes one of the layers", plan.compile is True),
        ("with training.distributed.strategy: fsdp, layers lie in parts", plan.distributed.strategy != "ddp"),
    ) if holds), None)
    if why is not None:
        raise RequestError(f"training.cache_frozen: {why}. Leave it out.")


def check_precision(chosen: str, family: type[Family], field: str = "training.precision") -> None:
    """RequestError, which names the `field`, where a machine or a model can't have a precision."""
    if chosen == "fp16" and devices.on_cpu():
        raise RequestError(f"{field}: fp16 needs a GPU; on a CPU it is far slower than fp32. "
                           "Use bf16 or fp32.")
    if chosen == "fp16" and overflows(family):
        raise RequestError(f"{field}: T5's activations overflow in fp16; use bf16 or fp32.")


def answering_in(asked: str, family: type[Family], learned: recipe.Recipe | None) -> Precision:
    """The numbers that a model answers in, by `--precision`: `auto` is what its run learned in, where it is fast here.

    RequestError for a name that is none, and for numbers that this machine or the family can't have.
    """
    names = get_args(Precision)
    if asked != "auto":
        if asked not in names:
            raise RequestError(f"--precision {asked}: is none of auto, {', '.join(names)}."
                               f"{nearest(asked, ('auto', *names))}")
        check_precision(asked, family, "--precision")
        return cast(Precision, asked)
    if learned is None:
        return "fp32"
    fast, _ = precision(WIDTH, family)
    return fast if fast == learned.training.precision else "fp32"


def computing_in(numbers: Precision, device: str) -> AbstractContextManager[Any]:
    """While the block runs, products are of 16 bits where `numbers` says so; weights stay what they are."""
    import torch

    if numbers == "fp32":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16 if numbers == "bf16" else torch.float16)


def overflows(family: type[Family]) -> bool:
    """Whether a family's activations grow beyond what fp16 holds (65,504): those of T5 do, trained in bf16 or fp32."""
    return family.model_type in OVERFLOW


# ---- how fast, and which weights are kept ----


def usual_rate(request: recipe.Recipe) -> float:
    """The recipe's learning rate, or else the usual one."""
    given = request.training.learning_rate
    return usual_here(request) if given is None else given


def usual_here(request: recipe.Recipe) -> float:
    """The method's usual rate, in the optimizer's measure; from scratch, ten times what pretrained weights bear."""
    return in_measure(request, request.tuning.learning_rate, not request.tuning.adapter)


def model_rate(request: recipe.Recipe) -> float:
    """The usual rate of a whole model, be it beside an adapter that trains at another one."""
    return in_measure(request, registry.find("tuning", "full")().learning_rate, True)


def in_measure(request: recipe.Recipe, rate: float, model: bool) -> float:
    """A usual rate as the recipe's optimizer takes it, where it is of a model's own weights also from scratch."""
    rate = 10 * rate if request.backbone.pretrained is None and model else rate
    return rate * recipe.with_optimizer(request)[0].rule.factor


def head_rate(request: recipe.Recipe) -> float:
    """A new head bears less than a prefix does, whose numbers have far to go."""
    if request.training.head_learning_rate is not None:
        return request.training.head_learning_rate
    if not request.tuning.adapter:
        return usual_rate(request)
    return min(usual_rate(request), 1e-3 * recipe.with_optimizer(request)[0].rule.factor)


def best(request: recipe.Recipe) -> str | None:
    """What decides which weights are kept where the recipe doesn't say: the objective's own; `loss` to stop early."""
    if request.data.validation is None:
        return None
    return request.learning.best or ("loss" if request.training.early_stopping_patience else None)


# ---- compiled or not ----


def compiled(
    training: recipe.Training, family: type[Family], text: int = 0, experts: bool = False,
) -> tuple[bool, str]:
    """(whether the layers are compiled, why); `text`: bytes of a pass over the data, as far as that is known.

    `experts`: whether the layers are a mixture of experts.
    """
    if devices.on_cpu():
        return False, "on a CPU compiling takes minutes and rarely saves them"
    if not family.layers:
        return False, "family: auto doesn't know the layers"
    if experts:
        return False, "which experts a layer needs is known when it runs"
    if (missing := lacks_compiler()) is not None:
        return False, missing
    lengths = (training.max_steps, training.max_tokens, training.max_minutes)
    passes = training.num_train_epochs or (3 if not any(lengths) else 0)
    long = ((training.max_steps or 0) >= STEPS or max(training.max_tokens or 0, passes * text / LETTERS) >= TOKENS
            or (training.max_minutes or 0) >= MINUTES)
    return long, "the run is long enough to earn it" if long else \
        f"a run shorter than {STEPS:,} steps, {TOKENS:,} tokens or {MINUTES} minutes may not earn the time it takes"


def check_compiled(chosen: bool, family: type[Family], experts: bool = False) -> None:
    """RequestError where layers are to be compiled and can't be."""
    if not chosen:
        return
    if not family.layers:
        raise RequestError("training.compile: needs to know the layers of a model, which family: auto doesn't; "
                           "leave it out.")
    if experts:
        raise RequestError("training.compile: which experts a layer needs is known when it runs, so a mixture of "
                           "experts isn't compiled; leave it out.")
    if (missing := lacks_compiler()) is not None:
        raise RequestError(f"training.compile: {missing}; leave it out.")


def lacks_compiler() -> str | None:
    """What torch.compile needs and this machine lacks, or None.

    On a CPU a C++ compiler; on a GPU Triton, which compiles its launcher by a C compiler, on NVIDIA's from Volta on.
    """
    if (name := devices.kind()) in ("mps", "npu"):
        return f"torch.compile on this {devices.NAMES[name]} is not something that llmkit relies on"
    if name != "cpu":
        if name == "cuda" and devices.driver().get_device_capability() < (7, 0):
            return "torch.compile needs a GPU of compute capability 7.0 or more"
        if find_spec("triton") is None:
            return "torch.compile needs the package triton on a GPU (pip install triton)"
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang", "cc"]
        if not any(map(shutil.which, names)):
            return f"torch.compile needs a C compiler, and there is no {' or '.join(names)} (CC names another)"
    else:
        name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(name) is None:
            return f"torch.compile needs a C++ compiler, and there is no {name} (CXX names another)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "torch.compile needs Python's headers (Python.h), which aren't installed"
    return None
