"""Run every benchmark of this folder, or the named ones, and write benchmarks/RESULTS.md.

    LLMKIT_DATA=folder python -m benchmarks.speed              # reduced sizes, under 30 minutes on 2 cores
    LLMKIT_DATA=folder python -m benchmarks.speed --full masked_lm causal_lm
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs

HERE = Path(__file__).parent
SHARED = ("__init__", "__main__", "corpus", "guard", "pairs", "training")
RESULTS = HERE.parent / "RESULTS.md"
PACKAGES = ("llmkit", "torch", "transformers", "tokenizers", "accelerate", "peft")
KEPT = HERE.parent / "results.json"


def names() -> list[str]:
    """The benchmarks: every module of this folder but the shared ones."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SHARED)


def machine() -> str:
    """The processor and its cores."""
    found = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").is_file() else [platform.processor()]
    return f"{found[0]}, {os.cpu_count()} cores"


ABOUT = """# llmkit beside the stock way

Written by `python -m benchmarks.speed`; don't edit. Both sides start from the same weights, see the same text, and run
by turns, each in a process of its own on the same cores; figures are medians. The stock way is transformers' Trainer,
its collators, `map` and `group_texts` as in its official examples, with their defaults.
"""


def page(kept: dict[str, Any]) -> str:
    """RESULTS.md: each benchmark's rows as they were last measured."""
    measured = {name: kept[name] for name in names() if name in kept}
    rows = [pairs.Row(**row) for one in measured.values() for row in one["rows"]]
    about = sorted({f"{one['machine']}; {one['versions']}; {one['when']}" for one in measured.values()})
    sizes = [f"{name} {'at full size' if one['full'] else 'reduced'} in {one['minutes']:.0f} min"
             for name, one in measured.items()]
    lines = [ABOUT, *(f"- {one}" for one in about), "", pairs.table(rows), "", f"Sizes: {', '.join(sizes)}.", ""]
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", choices=[[], *names()], help="which; all where none is named")
    options.add_argument("--full", action="store_true", help="full size, more turns: hours")
    given = options.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for name in given.names or names():
        start = time.monotonic()
        rows = import_module(f"benchmarks.speed.{name}").run(given.full)
        if not rows:  # it has said why
            continue
        kept[name] = {
            "rows": [asdict(row) for row in rows], "full": given.full, "machine": machine(), "versions": versions,
            "when": time.strftime("%Y-%m-%d"), "minutes": (time.monotonic() - start) / 60}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        RESULTS.write_text(page(kept))
        print(pairs.table(rows), flush=True)


if __name__ == "__main__":
    main()
