"""What a run's folder holds, and whether two runs are the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import Child
from safetensors.torch import load_file

from llmkit.system.errors import status_of
from llmkit.training.spread.launch import free_port

TIMED = ("tokens_per_second", "data_wait")
"""What may differ between two runs of one recipe."""


def write(tree: Mapping[str, Any], folder: Path | None = None) -> Path:
    """A recipe's file beside the folder of its run, or in `folder`."""
    out = Path(tree["output_dir"])
    path = (out if folder is None else folder / out.name).with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(tree), sort_keys=False))
    return path


def both(folder: Path, fit: Callable[[int], object]) -> list[Child]:
    """Two processes that train together, forked from this one: what each does, by its number, and how that ends."""
    where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
             "GLOO_SOCKET_IFNAME": "lo"}

    def act(rank: int) -> int:
        try:
            fit(rank)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            return status_of(error)
        return 0

    return [Child([], folder.with_suffix(f".{rank}.log"), partial(act, rank), RANK=str(rank), LOCAL_RANK=str(rank),
                  **where) for rank in range(2)]


def ended(both: list[Child]) -> list[int]:
    """How both ended; one that hangs is a failure."""
    return [one.wait(200) for one in both]


def events(run: Path, kind: str | None = "train") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of one kind or all."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in found if kind in (None, event["event"])]


def steps(run: Path) -> int:
    """How many training steps are in metrics.jsonl so far."""
    path = run / "metrics.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints, the oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def summary(run: Path) -> dict[str, Any]:
    """summary.json."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def digests(run: Path) -> dict[str, str]:
    """Hashes of all that must not depend on how often a run was killed.

    The weights of model/ and of other networks, weights and optimizer of the last checkpoint, and every event without
    its timings.
    """
    newest = checkpoints(run)[-1]
    found = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in run.glob("*/*.safetensors")}
    found |= {name if name == "optimizer" else str((newest / name).relative_to(run)): digest
              for name, digest in digests_of(newest).items()}
    said = [{name: value for name, value in event.items() if name not in TIMED} for event in events(run, None)]
    return {**found, "metrics.jsonl": hashlib.sha256(json.dumps(said).encode()).hexdigest()}


def digests_of(checkpoint: Path) -> dict[str, str]:
    """Hashes of a checkpoint's tensors: those of each file, and the optimizer's."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.glob("*.safetensors")
             if not path.name.startswith("shard-")}
    kept = {path.name: load_file(path) for path in checkpoint.glob("shard-*")}  # whose heads are in any order
    if (whole := checkpoint / "optimizer.pt").is_file():
        kept["optimizer"] = torch.load(whole, weights_only=True)
    return {**found, **{name: hashlib.sha256(repr(plain(state)).encode()).hexdigest() for name, state in kept.items()}}


def plain(value: Any) -> Any:
    """Nested tensors as bytes, mappings in the order of their keys: which parameter woke up first is no difference."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return [(key, plain(value[key])) for key in sorted(value, key=str)]
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def differences(one: Path, other: Path) -> list[str]:
    """Names of what differs between two runs; empty where they are the same."""
    a, b = digests(one), digests(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def trees(run: Path) -> dict[str, str]:
    """The hash of every file of a folder but its lock, by path: whether anything was touched."""
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(run.rglob("*")) if path.is_file() and not path.name.startswith((".lock", ".held-"))}
