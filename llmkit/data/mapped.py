"""Arrays that lie in files: another process maps the same part of the file, where it would get a copy of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stretch:
    """A part of a file that is an array of one dimension."""

    file: str
    offset: int
    """In bytes."""
    dtype: str
    count: int

    def map(self) -> NDArray[Any]:
        """The array, read only; as a plain one: a slice of a memmap takes five times as long."""
        return np.asarray(np.memmap(self.file, self.dtype, "r", self.offset, (self.count,)))


def stretch_of(array: NDArray[Any]) -> Stretch | None:
    """Where in a file an array lies; None where it was made in memory, or has gaps or nothing in it."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and not (isinstance(owner, np.memmap) and owner.filename and
                                                 not isinstance(owner.base, np.memmap)):
        owner = owner.base
    if not isinstance(owner, np.memmap) or array.ndim != 1 or not array.size or not array.flags.c_contiguous:
        return None
    start = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return Stretch(str(owner.filename), owner.offset + start, array.dtype.str, array.size)


def portable(state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of an object as they are pickled: arrays of a file by where they lie there."""
    return {name: (stretch_of(value) or value) if isinstance(value, np.ndarray) else value
            for name, value in state.items()}


def mapped(state: dict[str, Any]) -> dict[str, Any]:
    """What `portable` made, with its arrays."""
    return {name: value.map() if isinstance(value, Stretch) else value for name, value in state.items()}
