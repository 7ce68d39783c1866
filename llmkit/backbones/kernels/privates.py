"""Private names of other libraries, each with the version it was seen in."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig


@contextmanager
def without(package: str) -> Iterator[None]:
    """While the block runs, whoever imports a package finds that it isn't there, and its own word on that is kept off.

    Seen in bitsandbytes 0.50, which logs that it missed the package kernels.
    """
    log = logging.getLogger("bitsandbytes")
    before, level = sys.modules.get(package), log.level
    sys.modules[package] = None  # type: ignore[assignment]
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before


def attention_of(model: Any) -> str:
    """The way in which a model of transformers attends: eager, sdpa, or a name that was registered.

    Seen in transformers 5.23.
    """
    return str(model.config._attn_implementation)


def ways_to_attend(model: Any) -> set[str]:
    """Which of transformers' ways of attending a model's classes are written for.

    Seen in transformers 5.23.
    """
    able = {"sdpa": model._supports_sdpa, "flash_attention_2": model._supports_flash_attn,
            "flex_attention": model._supports_flex_attn}
    return {"eager", *(name for name, can in able.items() if can)}


def flash(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None,
    softcap: float | None = None, is_causal: bool | None = None, **lengths: Any,
) -> tuple[Tensor, None]:
    """FlashAttention 2 as transformers calls it, whatever a model's way is called: (batch, heads, length, width) ->
    (batch, length, heads, width).

    `lengths`: `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q`, `max_length_k` of rows that lie in one; what else
    transformers passes is for others. Seen in transformers 5.23.
    """
    import torch
    from transformers.modeling_flash_attention_utils import _flash_attention_forward

    names = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
    kind = query.device.type
    # rotary positions make 32 bits of queries and keys
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    if dtype is torch.float32 and kind == "cuda":  # as where a model is asked outside of training: kernels know 16 bits
        dtype = torch.bfloat16
    found: Tensor = _flash_attention_forward(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attention_mask, query_length=query.shape[2],
        is_causal=module.is_causal if is_causal is None else is_causal, dropout=dropout, softmax_scale=scaling,
        sliding_window=sliding_window, softcap=softcap, target_dtype=dtype,
        attn_implementation="flash_attention_2", **{name: lengths[name] for name in names if name in lengths})
    return found if torch.is_autocast_enabled(kind) else found.to(value.dtype), None


@contextmanager
def by_sdpa(model: Any) -> Iterator[None]:
    """While the block runs, a model that attends by FlashAttention or FlexAttention does it by sdpa.

    Those are for training: FlashAttention takes 16 bits on a GPU only, and FlexAttention is compiled anew for each
    length. A model whose layers see no padding stays as it is. Seen in transformers 5.23.
    """
    before = attention_of(model)
    if before in ("flash_attention_2", "flex_attention"):
        model.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        model.config._attn_implementation = before


def forget_kernels(config: PretrainedConfig) -> None:
    """Leave it to transformers which attention and experts it computes by: a config may name kernels of a hub.

    Seen in transformers 5.23.
    """
    config._attn_implementation = config._experts_implementation = None


def onednn_multiplies_bf16() -> bool:
    """Whether oneDNN multiplies bf16 on this CPU at all, be it with instructions for it or by way of fp32.

    A torch without oneDNN (macOS on ARM) has no such operation. Seen in torch 2.13.
    """
    import torch

    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is not None and bool(asked())


def onednn_multiplies_int8() -> bool:
    """Whether oneDNN's products of 8 bits are there and exact: some CPUs add pairs of them up in 16 bits, and cut them.

    127 · 127 · 8 = 129,032. Seen in torch 2.13.
    """
    import torch

    asked = getattr(torch.ops.onednn, "qlinear_pointwise", None)
    if asked is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    most, one = torch.full((16, 8), 127, dtype=torch.int8), torch.ones(16)
    try:
        packed = torch.ops.onednn.qlinear_prepack(most, None)
        found = asked(most, 1.0, 0, packed, one, one.int() - 1, None, 1.0, 0, torch.float32, "none", [], "")
    except (RuntimeError, NotImplementedError):  # no kernel for this CPU
        return False
    return bool((found == 127 * 127 * 8).all())


def has_avx512_bf16() -> bool:
    """Whether this CPU has instructions for products of bf16.

    Seen in torch 2.13.
    """
    import torch

    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return asked is not None and bool(asked())


@contextmanager
def unasked() -> Iterator[None]:
    """While the block runs, transformers doesn't wait for a device to see what is known here.

    A row is one sequence, so that its positions needn't be searched for the beginnings of others; a mask of padding is
    there where there is padding, so that it needn't be looked through; and where there is none, ids needn't be looked
    at to warn of it. Seen in transformers 5.23.
    """
    from transformers import PreTrainedModel, masking_utils

    def masked(looked: Callable[..., bool]) -> Callable[..., bool]:
        def skips(padding_mask: Any, *args: Any, **options: Any) -> bool:
            return padding_mask is None and looked(padding_mask, *args, **options)
        return skips

    causal, both = masking_utils._ignore_causal_mask_sdpa, masking_utils._ignore_bidirectional_mask_sdpa
    instead: list[tuple[Any, str, Any]] = [
        (masking_utils, "find_packed_sequence_indices", lambda position_ids: None),
        (masking_utils, "_ignore_causal_mask_sdpa", masked(causal)),
        (masking_utils, "_ignore_bidirectional_mask_sdpa", masked(both)),
        (PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda self, input_ids, attention_mask: None)]
    before = [getattr(owner, name) for owner, name, _ in instead]
    for owner, name, one in instead:
        setattr(owner, name, one)
    try:
        yield
    finally:
        for (owner, name, _), one in zip(instead, before, strict=True):
            setattr(owner, name, one)


def leaves_steps_out(optimizer: Any) -> bool:
    """Whether the kernel of an optimizer can leave a step out by a number that is on its device (torch's fused ones).

    Not for tensors in parts: the number would have to be one too. Seen in torch 2.13.
    """
    from torch.distributed.tensor import DTensor

    parted = any(isinstance(parameter, DTensor) for group in optimizer.param_groups for parameter in group["params"])
    return bool(vars(optimizer).get("_step_supports_amp_scaling")) and not parted


@contextmanager
def left_out(optimizer: Any, wrong: Tensor) -> Iterator[None]:
    """While the block runs, a step of the optimizer changes nothing where `wrong`, a truth value of its device, holds.

    The way in which torch's GradScaler tells it. Seen in torch 2.13.
    """
    optimizer.found_inf = wrong.float()
    try:
        yield
    finally:
        del optimizer.found_inf


def forget_accelerator(processes_too: bool) -> None:
    """Let the next Accelerator decide anew on its precision, which accelerate keeps for the whole process.

    Seen in accelerate 1.15.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=processes_too)


def swap_accelerators(states: Mapping[type[Any], Any]) -> dict[type[Any], Any]:
    """Give accelerate's classes of states others to share between their instances; returns those that they had.

    An accelerator that was made before keeps what it had. Seen in accelerate 1.15.
    """
    before = {kind: kind._shared_state for kind in states}
    for kind, state in states.items():
        kind._shared_state = state
    return before


def shared_store() -> Any:
    """The store of names and values that all processes of a group reach; None where there is no group.

    It lives in the first of them. Seen in torch 2.13.
    """
    import torch

    if not torch.distributed.is_initialized():
        return None
    return torch.distributed.distributed_c10d._get_default_store()


def leaves_batches(model: Any) -> bool:
    """Whether rows can leave a batch that a model writes: not so XLNet's, whose memory has the length first.

    Seen in transformers 5.23.
    """
    return bool(model._supports_default_dynamic_cache())


def prefill(model: Any, ids: Tensor, config: Any, inputs: dict[str, Any]) -> Any:
    """A model's outputs for prompts (rows, length), as its `generate` reads them: not again what a cache holds.

    Seen in transformers 5.23.
    """
    return model._prefill(ids, config, inputs)


def compiled_call(model: Any, config: Any, inputs: dict[str, Any]) -> Any:
    """What calls a model that writes: compiled, as its `generate` does with a cache of fixed size on a GPU, each step
    a CUDA graph; the model itself where it doesn't.

    Seen in transformers 5.23.
    """
    return model.get_compiled_call(config.compile_config) if model._valid_auto_compile_criteria(inputs, config) \
        else model


def compiles_whole(model: Any) -> bool:
    """Whether transformers says that a model's forward is one graph, over a cache of fixed size.

    Seen in transformers 5.23.
    """
    return bool(model._can_compile_fullgraph)


def processors(model: Any, config: Any, length: int) -> Any:
    """What a model's `generate` does to scores behind a prompt of so many tokens, by a generation config, on the host.

    Seen in transformers 5.23.
    """
    config = copy.deepcopy(config)
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device="cpu")
    config.max_length = length + config.max_new_tokens
    return model._get_logits_processor(config, input_ids_seq_length=length, device="cpu", model_kwargs={})


def carried(model: Any, outputs: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What a model's `generate` carries from a step to the next: the cache, a longer mask.

    Seen in transformers 5.23.
    """
    return dict(model._update_model_kwargs_for_generation(
        outputs, inputs, is_encoder_decoder=model.config.is_encoder_decoder))


def records(model: Any, output: str) -> list[Any]:
    """Where a model of transformers takes an output from: each has `target_class`, `index` and `layer_name`.

    `router_logits` of Qwen3-MoE: the first thing that each Qwen3MoeTopKRouter returns. Empty where it has no such
    output. Seen in transformers 5.23.
    """
    from transformers import PreTrainedModel

    found = model._can_record_outputs.get(output, []) if isinstance(model, PreTrainedModel) and isinstance(
        model._can_record_outputs, dict) else []
    return list(found) if isinstance(found, list | tuple) else [found]


@contextmanager
def answered() -> Iterator[None]:
    """While the block runs, what a model without numbers is asked about them is true: whether a mask is all ones …

    So methods that try a model before they tune it go on with one on torch's meta device. Seen in torch 2.13.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    ops = torch.ops.aten
    asked = (ops._local_scalar_dense.default, ops.equal.default, ops.is_nonzero.default)

    class Nodding(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in asked and args[0].is_meta:
                return True
            return func(*args, **(kwargs or {}))

    with Nodding():  # type: ignore[no-untyped-call]
        yield
