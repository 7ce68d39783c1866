"""What the tests of files from strangers share: a payload, and what a command may do with it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reliability.commands import Done, Server

GIGABYTE = 1 << 30
CODE = "from pathlib import Path\nPath({marker!r}).touch()\n"
"""A module that touches the marker when it is imported."""


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def change(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def generate(llmkit: Server, model: Path, *words: str) -> Done:
    return llmkit.run("generate", "the cat", "--model", model, "--max-new-tokens", "4", "--seed", "1", *words)


def held(done: Done) -> None:
    """It ended with an answer, or with one line of error; and took no more than a gigabyte."""
    assert done.status in (0, 2, 3, 4, 6), done.err
    assert done.err.count("llmkit: error:") == (done.status != 0)
    assert "Traceback" not in done.err
    assert done.peak < GIGABYTE
