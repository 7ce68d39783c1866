"""Programs of the project that are no part of a package, as modules."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def script(place: str) -> ModuleType:
    """`script("docs/manual.py")`, under a name of its own; dataclasses look their module up."""
    name = f"script_{place.removesuffix('.py').strip('.').replace('/', '_')}"
    spec = spec_from_file_location(name, ROOT / place)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
