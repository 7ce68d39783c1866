"""What a board beside a run costs: the CPU seconds of its process, as a share of the run's own.

    python benchmarks/live.py bert_mlm --minutes 1
    python benchmarks/live.py bert_mlm --minutes 1 --looking

The run is `llmkit pretrain RECIPE --live`. Its process, and the board's, are asked for their CPU seconds as long as
they are there. --looking also asks the board every two seconds for what an open page asks for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

EVERY = 2.0
"""Seconds between two questions of an open page."""


def seconds(pid: int) -> float:
    """CPU seconds of a process and of its children that ended (proc(5): utime, stime, cutime, cstime); 0 of none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def board_of(pid: int) -> int | None:
    """The process of the board that a run started; None where it isn't there yet."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return next((int(child) for child in children
                     if b"--beside" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")), None)
    except OSError:
        return None


def look(address: str) -> None:
    """Ask what an open page of a run asks for."""
    for path in ("api/runs", "api/run?run=.&lang=en", "api/lines?run=."):
        try:
            urlopen(f"{address}/{path}", timeout=20).read()
        except URLError:
            return


def measure(recipe: str, minutes: float, looking: bool) -> dict[str, float]:
    """{"run": its CPU seconds, "board": those of the board, "share": the second by the first, "wall"}"""
    with tempfile.TemporaryDirectory() as folder:
        words = ["pretrain", recipe, "--live", "--output-dir", f"{folder}/run",
                 "--set", f"training.max_minutes={minutes}"]
        log = Path(folder) / "log"
        start = time.monotonic()
        with log.open("wb") as said:
            run = subprocess.Popen([sys.executable, "-m", "llmkit", *words], stderr=said, stdout=said)
        of_run = of_board = 0.0
        board, address, asked = None, "", 0.0
        while run.poll() is None:
            board = board or board_of(run.pid)
            of_run, of_board = max(of_run, seconds(run.pid)), max(of_board, seconds(board) if board else 0.0)
            address = address or next(iter(re.findall(r"the board of this run.*?(http://\S+)", log.read_text())), "")
            if looking and address and time.monotonic() - asked > EVERY:
                asked = time.monotonic()
                look(address)
            time.sleep(0.2)
        if run.returncode or not of_board:
            raise SystemExit(log.read_text())
    return {"run": of_run, "board": of_board, "share": of_board / of_run, "wall": time.monotonic() - start}


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--looking", action="store_true")
    asked = parser.parse_args()
    print(json.dumps(measure(asked.recipe, asked.minutes, asked.looking)))


if __name__ == "__main__":
    main()
