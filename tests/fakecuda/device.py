"""A CUDA device on a torch without one: its tensors say cuda:0, hold a CPU tensor, and raise where CUDA's would.

Raises: operations on tensors of two devices, CPU generators, `.numpy()`. autocast("cuda"), GradScaler are torch's own.
Counts what makes the host wait for a device: a number that is read, a shape that depends on values (nonzero, boolean
indexing), copies to the host, copies that aren't asked to be asynchronous. It has no kernels, memory, streams or NCCL.
"""
# ruff: noqa: E402

import ctypes
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakecuda.build import torch_folder

assert "torch" not in sys.modules, "the device's library must be there before torch"
sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # its kernels ask for CUDA's own streams: not installed
ctypes.CDLL(str(torch_folder() / "lib" / "libtorch_cpu.so"), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)

import torch
import torch.utils._device
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("cuda", 0)
HERE = str(Path(__file__).parent)
TORCH = str(torch_folder())
TWO = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})
"""Their indices may be of the CPU; all else of theirs may not."""
BY_VALUES = frozenset({"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"})
"""Operations whose result has a shape that depends on values: the host has to know them."""
NO_NUMBERS = frozenset({"gather", "scatter", "cat", "stack", "index_select", "embedding", "mm", "addmm", "bmm"})
"""Operations that take no number of the CPU beside tensors of the device."""


# ---- what the host waits for ----


class Waits:
    """How often the host waits, by kind and place, while it is recorded."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.on = False

    def note(self, kind: str) -> None:
        """Count a wait of the line of code that runs now."""
        if self.on:
            self.counts[kind, line()] += 1

    @contextmanager
    def recorded(self) -> Iterator[Counter[tuple[str, str]]]:
        """Count while the block runs, from 0."""
        self.counts, self.on = Counter(), True
        try:
            yield self.counts
        finally:
            self.on = False


WAITS = Waits()


def line() -> str:
    """`training/step.py:98`, llmkit's line that runs now, and whose it is that it called: `<- transformers/…:12`."""
    frame, nearest = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((HERE, TORCH)) and name[:1] != "<":
            place = f"{name.rpartition('/site-packages/')[2].rpartition('/llmkit/')[2]}:{frame.f_lineno}"
            nearest = nearest or place
            if "/llmkit/" in name and "site-packages" not in name:
                return place if place == nearest else f"{place} <- {nearest}"
        frame = frame.f_back
    return nearest


# ---- tensors of the device ----


class PretendTensor(torch.Tensor):
    """A tensor of the device; `inner` is the CPU tensor of its numbers."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False) -> "PretendTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, layout=inner.layout, device=GPU,
            requires_grad=requires_grad)

    def __init__(self, inner: torch.Tensor, requires_grad: bool = False) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Operation(func, args, kwargs or {}).run()

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({tuple(self.shape)}, {self.dtype}, device=cuda:0)"

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(moved_index(at))

    def __setitem__(self, at: Any, value: Any) -> None:
        super().__setitem__(moved_index(at), value)

    def tolist(self) -> Any:
        return self.detach().to("cpu").tolist()

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                        "memory first.")

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self.numpy()

    def untyped_storage(self) -> Any:
        """That of its numbers, by which transformers finds tied weights."""
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = type(self)(self.inner.detach().clone(), self.requires_grad)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if isinstance(
                self, torch.nn.Parameter) else copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.detach().clone().__reduce_ex__(protocol)


def moved_index(at: Any) -> Any:
    """Lists of numbers as torch takes them for indices: tensors, copied to the device."""
    def each(one: Any) -> Any:
        plain = isinstance(one, list | range) and not any(isinstance(number, slice) for number in one)
        return torch.tensor(one).to(GPU) if plain else one
    return tuple(map(each, at)) if isinstance(at, tuple) else each(at)


class Pretending(TorchDispatchMode):
    """Sees what makes a tensor of the device from nothing: zeros, arange …"""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Operation(func, args, kwargs or {}).run()


def on_gpu(device: Any) -> bool:
    """Whether something given as a device is the pretended one."""
    return device is not None and not isinstance(device, int) and torch.device(device).type == "cuda"


class Operation:
    """A call of one of torch's operations."""

    def __init__(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.name: str = func._schema.name.removeprefix("aten::")
        every = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        self.ours = [one for one in every if isinstance(one, PretendTensor)]
        self.cpus = [one for one in every if not isinstance(one, PretendTensor)]
        self.device = kwargs.get("device")

    def run(self) -> Any:
        if self.name in ("pin_memory", "_pin_memory"):
            return self.args[0]
        if self.name == "is_pinned":
            return False
        if not self.ours and not on_gpu(self.device):
            return self.func(*self.args, **self.kwargs)
        special = {"_to_copy": self.move, "copy_": self.copy, "_local_scalar_dense": self.number}.get(self.name)
        if special is not None:
            return special()
        self.refuse()
        self.count()
        return self.compute()

    def move(self) -> Any:
        """`to`: between the devices, or from a dtype to another."""
        (source,), options = self.args, {
            name: value for name, value in self.kwargs.items() if name not in ("device", "pin_memory", "non_blocking")}
        if not isinstance(source, PretendTensor):
            if not self.kwargs.get("non_blocking"):
                WAITS.note("copy from host")
            return PretendTensor(self.func(source, **options))
        if self.device is None or on_gpu(self.device):
            return PretendTensor(self.func(source.inner, **options))
        WAITS.note("copy to host")
        return self.func(source.inner, **options).clone()

    def copy(self) -> Any:
        """`copy_`: into a tensor that is there."""
        into, source = self.args[:2]
        if not isinstance(into, PretendTensor):
            WAITS.note("copy to host")
            return into.copy_(source.inner)
        if not isinstance(source, PretendTensor):
            WAITS.note("copy from host")
        into.inner.copy_(source.inner if isinstance(source, PretendTensor) else source)
        return into

    def number(self) -> Any:
        """`item`."""
        WAITS.note("read a number")
        return self.func(self.args[0].inner)

    def refuse(self) -> None:
        """Raise where CUDA would."""
        generator = self.kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if self.name in INDEXING:
            if not isinstance(self.args[0], PretendTensor):
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            if any(isinstance(one, torch.Tensor) and not isinstance(one, PretendTensor) and one.dim()
                   for one in self.args[2:3]):
                raise RuntimeError(f"{TWO} ({self.name})")
        elif self.ours and any(one.dim() for one in self.cpus):
            shapes = [(tuple(one.shape), one.device.type) for one in (*self.ours, *self.cpus)]
            raise RuntimeError(f"{TWO} ({self.name}: {shapes})")
        elif self.ours and self.cpus and (self.name in NO_NUMBERS or self.in_place_of_cpu()):
            raise RuntimeError(f"{TWO} ({self.name}, a number of the cpu)")

    def in_place_of_cpu(self) -> bool:
        """Whether a number of the CPU would be changed in its place."""
        first = self.args[0] if self.args else None
        return self.name.endswith("_") and isinstance(first, torch.Tensor) and not isinstance(first, PretendTensor)

    def count(self) -> None:
        """Note what the host waits for."""
        if self.name in ("equal", "is_nonzero"):
            WAITS.note("read a number")
        overloaded = f"{self.name}.{self.func._schema.overload_name}"
        if self.name in BY_VALUES or overloaded == "repeat_interleave.Tensor":
            WAITS.note(f"a shape by values ({self.name})")
        for one in self.args[1] if self.name in INDEXING else ():
            if one is not None and one.dtype in (torch.bool, torch.uint8):
                WAITS.note("a shape by values (boolean index)")
            elif one is not None and not isinstance(one, PretendTensor):
                WAITS.note("copy from host")

    def compute(self) -> Any:
        """Let the CPU do it, with the numbers."""
        def bare(one: Any) -> Any:
            return one.inner if isinstance(one, PretendTensor) else one
        leaving = self.device is not None and not on_gpu(self.device)
        options = {name: value for name, value in self.kwargs.items() if name != "pin_memory"}
        if self.device is not None:
            options["device"] = torch.device("cpu")
        flat, form = tree_flatten((self.args, options))
        args, options = tree_unflatten([bare(one) for one in flat], form)
        if self.name == "histc" and not args[0].is_floating_point():  # which a CPU counts as fractions only
            return PretendTensor(self.func(args[0].float(), *args[1:], **options).to(args[0].dtype))
        if self.name in ("_softmax", "_log_softmax") and args[2]:  # from fp16 to fp32 at once, which a CPU can't
            return PretendTensor(self.func(args[0].float(), args[1], False))
        if self.name in ("_softmax_backward_data", "_log_softmax_backward_data") and args[3] != args[0].dtype:
            return PretendTensor(self.func(*args[:3], args[0].dtype).to(args[3]))
        same = {id(one.inner): one for one in self.ours}

        def dressed(one: Any) -> Any:
            if not isinstance(one, torch.Tensor) or isinstance(one, PretendTensor) or leaving:
                return one
            return same.get(id(one)) if id(one) in same else PretendTensor(one)

        made = tree_map(dressed, self.func(*args, **options))
        if torch.Tag.inplace_view in self.func.tags:  # squeeze_: the shape that autograd goes by is the outer tensor's
            with no_dispatch():
                self.func(*self.args, **self.kwargs)
        return made


# ---- torch, as it is on such a machine ----


def written_out(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Attention of plain operations, for torch's fused kernels need the real device; it checks what they check."""
    def attention(
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
        scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:
        if not any(isinstance(one, PretendTensor) for one in (query, key, value)):
            return attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if torch.is_autocast_enabled("cuda"):
            query, key, value = (one.to(torch.get_autocast_dtype("cuda")) for one in (query, key, value))
        if not query.dtype == key.dtype == value.dtype:
            raise RuntimeError("Expected query, key, and value to have the same dtype, but got "
                               f"{query.dtype}, {key.dtype} and {value.dtype}")
        if attn_mask is not None and attn_mask.dtype not in (torch.bool, torch.float32, query.dtype):
            raise RuntimeError("Expected attn_mask dtype to be bool or float or to match query dtype, but got "
                               f"{attn_mask.dtype} and {query.dtype}")
        if enable_gqa:
            key, value = (one.repeat_interleave(query.size(-3) // one.size(-3), -3) for one in (key, value))
        with torch.autocast("cuda", enabled=False):
            weights = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
            if is_causal:
                seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
                weights = weights.masked_fill(~seen, float("-inf"))
            if attn_mask is not None:
                weights = weights.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype is torch.bool \
                    else weights + attn_mask.to(weights.dtype)
            weights = torch._safe_softmax(weights, -1)  # 0 where nothing may be seen, as the kernels have it
            return torch.dropout(weights, dropout_p, dropout_p > 0) @ value
    return attention


def indexed(call: Callable[..., Any]) -> Callable[..., Any]:
    """`cuda` is `cuda:0`: a torch without CUDA can't look up the current device."""
    def with_index(*args: Any, **options: Any) -> Any:
        def number(one: Any) -> Any:
            return GPU if isinstance(one, str | torch.device) and str(one) == "cuda" else one
        return call(*map(number, args), **{name: number(value) for name, value in options.items()})
    return with_index


def made_there(make: Callable[..., Any]) -> Callable[..., Any]:
    """torch.tensor and torch.as_tensor: made here, then copied."""
    def making(*args: Any, device: Any = None, **options: Any) -> Any:
        if not on_gpu(device):
            return make(*args, **options, **({} if device is None else {"device": device}))
        return make(*args, **options).to(GPU)
    return making


class Generator(torch.Generator):
    """torch.Generator, which gives one of the device where it is asked for one."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        return super().__new__(DeviceGenerator if on_gpu(device) else cls)


class DeviceGenerator(Generator):
    """A CPU's generator that was made for the device."""


def drawn_there(make: Callable[..., Any]) -> Callable[..., Any]:
    """torch.rand, which a generator of the device lets draw there."""
    def drawing(*shape: Any, generator: Any = None, device: Any = None, **options: Any) -> Any:
        if isinstance(generator, DeviceGenerator) and on_gpu(device):
            return PretendTensor(make(*shape, generator=generator, **options))
        return make(*shape, generator=generator, device=device, **options)
    return drawing


def card(name: str = "Pretend A100", gigabytes: float = 80, major: int = 8, minor: int = 0) -> Any:
    """A GPU's properties, as torch.cuda gives them."""
    return types.SimpleNamespace(name=name, total_memory=int(gigabytes * 10**9), major=major, minor=minor,
                                 multi_processor_count=108, gcnArchName="")


def install() -> None:
    """Let torch say that it has one such device."""
    properties, cuda = card(), torch.cuda
    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "set_device": None,
        "get_device_properties": properties, "get_device_name": properties.name,
        "get_device_capability": (properties.major, properties.minor), "is_bf16_supported": True,
        "mem_get_info": (properties.total_memory, properties.total_memory), "max_memory_allocated": 0,
        "memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0, "reset_peak_memory_stats": None,
        "synchronize": None, "empty_cache": None, "_lazy_init": None, "init": None, "ipc_collect": None,
        "manual_seed": None, "manual_seed_all": None}
    for name, answer in answers.items():
        setattr(cuda, name, lambda *args, _answer=answer, **options: _answer)
    torch.utils._device._device_constructors()  # looks up torch.tensor once: it has to find torch's own
    torch.Tensor.to = indexed(torch.Tensor.to)  # type: ignore[method-assign]
    torch.tensor, torch.as_tensor = made_there(torch.tensor), made_there(torch.as_tensor)
    torch.rand = drawn_there(torch.rand)
    torch.Generator = Generator  # type: ignore[misc]
    torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]  # such tensors can't be inference tensors
    torch.nn.functional.scaled_dot_product_attention = written_out(torch.nn.functional.scaled_dot_product_attention)
    torch.__future__.set_swap_module_params_on_conversion(True)  # a module that is moved keeps its parameters


@contextmanager
def pretending() -> Iterator[None]:
    """While the block runs, tensors can be made on the device; backward passes stay in this thread."""
    with torch.autograd.set_multithreading_enabled(False), Pretending():
        yield
