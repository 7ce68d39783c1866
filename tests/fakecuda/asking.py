"""The process that has the pretend GPU, as a test asks it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


class Pretend:
    """A process with the pretend GPU: it starts when it is first asked, and keeps what it has imported."""

    def __init__(self, device: Path, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.child: subprocess.Popen[str] | None = None

    def start(self) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        with (self.folder / "said.txt").open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "fakecuda.child", str(self.device)], env=environment, cwd=self.folder,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)

    def ask(self, do: str, **asked: Any) -> tuple[Any, list[tuple[str, str, float]]]:
        """What it says of a request, and the waits of the host: (kind, place, how often). AssertionError: it raised."""
        self.child = self.child or self.start()
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(json.dumps({"do": do, **asked}, default=str) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, (self.folder / "said.txt").read_text()[-3000:]
        answer = json.loads(line)
        assert "raised" not in answer, answer["raised"]
        return answer["said"], [tuple(wait) for wait in answer["waits"]]

    def close(self) -> None:
        if self.child is not None:
            assert self.child.stdin is not None
            self.child.stdin.close()
            self.child.wait(60)
