"""What can go wrong for a user, each kind with the exit status that it ends the program with."""

import errno
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from unicodedata import normalize

SHORT = re.compile(r"^\d+ requested and \d+ written")
"""What numpy says where a disk takes a part of an array only; it doesn't say why."""
NO_MEMORY = re.compile(r"can't allocate memory|[Nn]ot enough memory")
"""What torch says where the system gives it no memory."""
DEVICE_FULL = re.compile(r"(CUDA|HIP|MPS|NPU|XPU)\b.{0,40}?out of memory|_STATUS_ALLOC_FAILED")
"""What torch, drivers and cuBLAS say where a device has none left, where they have no class for it."""


class LlmkitError(Exception):
    """An error with one clear message: what is wrong, where, and what instead."""

    status = 1
    heard = False
    """Whether it is another process's, which tells it too."""


class RequestError(LlmkitError):
    """The request is wrong: recipe, option, or a combination that can't work."""

    status = 2


class DeviceFullError(RequestError):
    """A GPU's memory ended at what was asked of it; less at once may do."""


class DataError(LlmkitError):
    """The data is wrong: missing, empty, or a row that can't be read."""

    status = 3


class NothingThereError(DataError):
    """No file is where a path says; `field` is the recipe's that has the path, where a recipe has it."""

    def __init__(self, message: str, field: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"{'.'.join(map(str, field))}: {message}" if field else message)
        self.message, self.field = message, field


class CheckpointError(LlmkitError):
    """The checkpoint is damaged, or doesn't belong to this recipe."""

    status = 4


class NumberError(LlmkitError):
    """A loss or a gradient stopped being finite."""

    status = 5


class PlaceError(LlmkitError):
    """The place is wrong: folder in use, not writable, disk full."""

    status = 6


class Stopped(BaseException):
    """A signal asked the program to stop. No `except Exception` of a library swallows it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: BaseException) -> int:
    """The exit status that an exception ends the program with."""
    if isinstance(error, LlmkitError | Stopped):
        return error.status
    if isinstance(error, KeyboardInterrupt):
        return 130
    if no_room(error) or not_open(error):
        return PlaceError.status
    return RequestError.status if no_memory(error) else LlmkitError.status


def no_room(error: BaseException | None) -> str | None:
    """What the file system said where an exception comes from a full disk, however libraries wrap that; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error.strerror
        found = re.search(r"([\w ]{1,99}) \(os error (\d+)\)", str(error)[:9999])  # Rust's: safetensors, tokenizers
        if found and int(found[2]) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return found[1].strip()
        if isinstance(error, OSError) and SHORT.search(str(error)):
            return os.strerror(errno.ENOSPC)
        error = error.__cause__ or error.__context__
    return None


def not_open(error: BaseException) -> str | None:
    """What is said where a file or a folder is closed to this user, as somebody else's may be; None for other errors.

    PermissionError(13, "Permission denied", "/runs/a/recipe.yaml")  ->  /runs/a/recipe.yaml: Permission denied: …
    """
    if not isinstance(error, OSError) or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
        return None
    if error.filename is None:  # no file: a process, an address
        return None
    place = error.filename2 or error.filename  # of a copy, what is written
    return (f"{place}: {error.strerror}: this user may not do that there. Ask whom it belongs to, or name another "
            "place.")


def no_memory(error: BaseException) -> bool:
    """Whether the system, or a GPU, had no memory for what was asked of it, by whatever class that is told."""
    return isinstance(error, MemoryError) or device_full(error) or NO_MEMORY.search(str(error)) is not None


def device_full(error: BaseException) -> bool:
    """Whether it was a GPU that had no memory left: then less at once may do."""
    kinds = {cls.__name__ for cls in type(error).__mro__}  # torch has one for each kind of device
    return bool(kinds & {"OutOfMemoryError", "DeviceFullError"}) or DEVICE_FULL.search(str(error)) is not None


def nearest(
    name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None, most: int | None = None,
) -> str:
    """Say what was probably meant: ` Did you mean 'masked_lm'?`, or else list what there is.

    Of more than `most` names, only how many there are, and those that are spelled most like it.
    The same letters win, whatever their case, hyphens and spaces: `Masked-LM`. Then what others call it (`aliases`, by
    the letters that `plain` leaves), and last what is spelled much like it.
    """
    known = list(known)
    by_letters = {plain(one): one for one in reversed(known)}
    wanted = plain(name)
    meant, more = by_letters.get(wanted), ""
    if meant is None and aliases is not None and wanted in aliases:
        meant, _, more = aliases[wanted].partition(" ")
    if meant is None:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        folded = get_close_matches(wanted, by_letters, n=1, cutoff=0.5) if wanted else []
        meant = near[0] if near else by_letters[folded[0]] if folded else None
    if meant is not None:
        return f" Did you mean {meant!r}{f', with {more}' if more else ''}?"
    if most is not None and len(known) > most:
        like = get_close_matches(name, known, n=most, cutoff=0.0)
        return f" There are {len(known):,} names, the nearest of which are: {', '.join(like)}."
    return f" There is: {', '.join(known)}." if known else ""


def plain(name: str) -> str:
    """A name without what people write in several ways: `Prefix-Tuning V2` is `prefixtuningv2`, `(IA)³` is `ia3`."""
    return re.sub(r"[\W_]", "", normalize("NFKC", name).casefold())
