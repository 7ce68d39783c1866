"""Compiles what lets a torch without CUDA hold tensors of a CUDA device."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")


def lacking() -> str | None:
    """Why it can't be compiled here, or None."""
    name = os.environ.get("CXX", "g++")
    return None if shutil.which(name) else f"the pretend GPU needs a C++ compiler, and there is no {name}"


def torch_folder() -> Path:
    """Where torch lies; it isn't imported, as the library must be there first."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def build(folder: Path) -> Path:
    """The library in a folder, compiled where this torch's isn't there yet; processes may do it at once."""
    torch, text = torch_folder(), SOURCE.read_bytes()
    version = (torch / "version.py").read_bytes()
    library = folder / f"device-{hashlib.blake2b(text + version, digest_size=8).hexdigest()}.so"
    if not library.exists():
        made = library.with_suffix(f".{os.getpid()}")
        include, lib = torch / "include", torch / "lib"
        subprocess.run(
            [os.environ.get("CXX", "g++"), "-O0", "-shared", "-fPIC", "-std=c++20", f"-I{include}",
             f"-I{include}/torch/csrc/api/include", str(SOURCE), "-o", str(made), f"-L{lib}", "-lc10", "-ltorch_cpu",
             f"-Wl,-rpath,{lib}"], check=True, capture_output=True, text=True)
        made.replace(library)
    return library
