"""Kinds of errors and their statuses, what is no fault of a request, and what was probably meant."""

import errno
from itertools import pairwise

import pytest
import torch

from llmkit.system import errors
from llmkit.system.errors import (
    DeviceFullError,
    LlmkitError,
    device_full,
    nearest,
    no_memory,
    no_room,
    not_open,
    plain,
    status_of,
)


def test_each_kind_has_the_exit_status_of_the_readme():
    assert {kind.__name__: kind.status for kind in (LlmkitError, *LlmkitError.__subclasses__())
            if kind.__module__ == errors.__name__} == {
        "LlmkitError": 1, "RequestError": 2, "DataError": 3, "CheckpointError": 4, "NumberError": 5, "PlaceError": 6}


def test_a_signal_is_caught_by_nobody_who_catches_exceptions():
    assert not issubclass(errors.Stopped, Exception)
    assert errors.Stopped("stopped by SIGTERM", 75).status == 75


def caused(*chain: BaseException) -> BaseException:
    """The first of some exceptions, each caused by the next."""
    for error, cause in pairwise(chain):
        error.__cause__ = cause
    return chain[0]


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
    (OSError(errno.EFBIG, "File too large"), "File too large"),
    (OSError(errno.ENOENT, "No such file"), None), (ValueError("No space left"), None), (None, None),
    (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device"),
    (OSError("6676 requested and 0 written"), "No space left on device"),  # numpy's, without a number
    (RuntimeError("Permission denied (os error 13)"), None),
    (caused(RuntimeError("can't save"), ValueError("zip"), OSError(errno.ENOSPC, "No space left")), "No space left")])
def test_a_full_disk_is_known_however_it_is_wrapped(error, said):
    assert no_room(error) == said


def test_a_full_disk_is_known_while_something_else_was_handled():
    later = KeyError("later")
    later.__context__ = OSError(errno.ENOSPC, "full")
    assert no_room(later) == "full"


@pytest.mark.parametrize(("error", "short"), [
    (MemoryError(), True), (torch.OutOfMemoryError("XPU out of memory"), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
    (RuntimeError("not enough memory: you tried to allocate 8 bytes"), True),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False), (OSError(errno.ENOSPC, "full"), False)])
def test_memory_that_isnt_there_is_known_by_whatever_class(error, short):
    assert no_memory(error) is short


@pytest.mark.parametrize(("error", "full"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
    (RuntimeError("CUDA error: out of memory"), True), (RuntimeError("HIP out of memory. Tried to"), True),
    (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB"), True), (RuntimeError("NPU out of memory."), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
    (DeviceFullError("no room for 2 texts"), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False), (MemoryError(), False),
    (RuntimeError("CUDA error: device-side assert triggered"), False)])
def test_a_gpu_without_memory_left_is_known_by_whatever_it_says(error, full):
    assert device_full(error) is full
    assert no_memory(error) or not full


@pytest.mark.parametrize(("name", "known", "said"), [
    ("maskd_lm", ["masked_lm", "causal_lm"], " Did you mean 'masked_lm'?"),
    ("Masked LM", ["masked_lm"], " Did you mean 'masked_lm'?"), ("LR", ["lr", "LR2"], " Did you mean 'lr'?"),
    ("zzz", ["masked_lm", "causal_lm"], " There is: masked_lm, causal_lm."), ("zzz", [], ""),
    ("learningrate", ["learning_rate", "head_learning_rate"], " Did you mean 'learning_rate'?")])
def test_what_was_probably_meant(name, known, said):
    assert nearest(name, known) == said


def test_of_many_names_the_nearest_are_told_and_how_many_there_are():
    known = [f"runs/{i:03}" for i in range(300)] + ["zebra", "zoo"]
    assert nearest("zqqqqqq", known, most=2) == " There are 302 names, the nearest of which are: zoo, zebra."
    assert nearest("zebr", known, most=2) == " Did you mean 'zebra'?"
    assert nearest("q", ["a", "b"], most=2) == " There is: a, b."


def test_what_others_call_it_goes_before_what_is_spelled_like_it():
    aliases = {"dora": "lora use_dora: true", "freeze": "layers"}
    assert nearest("DoRA", ["lora", "layers"], aliases) == " Did you mean 'lora', with use_dora: true?"
    assert nearest("freeze", ["lora", "layers"], aliases) == " Did you mean 'layers'?"
    assert nearest("dora", ["lora", "layers"]) == " Did you mean 'lora'?"


@pytest.mark.parametrize(("name", "letters"), [
    ("Prefix-Tuning V2", "prefixtuningv2"), ("(IA)³", "ia3"), ("ＬｏＲＡ", "lora"), ("masked_lm", "maskedlm"),
    ("Straße", "strasse"), ("--", "")])
def test_a_name_without_what_is_written_in_several_ways(name, letters):
    assert plain(name) == letters


@pytest.mark.parametrize(("error", "place"), [
    (PermissionError(errno.EACCES, "Permission denied", "/runs/a"), "/runs/a"),
    (PermissionError(errno.EPERM, "Operation not permitted", "/runs/a"), "/runs/a"),
    (OSError(errno.EROFS, "Read-only file system", "/runs/a", None, "/runs/b"), "/runs/b")])
def test_a_place_that_is_somebody_elses_is_told_with_its_name(error, place):
    assert not_open(error) == (f"{place}: {error.strerror}: this user may not do that there. Ask whom it belongs to, "
                               "or name another place.")
    assert status_of(error) == 6


@pytest.mark.parametrize("error", [
    PermissionError(errno.EPERM, "Operation not permitted"),  # of a process, or an address
    FileNotFoundError(errno.ENOENT, "No such file", "/runs/a"), ValueError("Permission denied")])
def test_other_errors_are_no_closed_place(error):
    assert not_open(error) is None
    assert status_of(error) == 1
