"""`llmkit tokenize` with several processes beside one: seconds, CPU seconds and bytes, turn by turn, with empty caches.

    python benchmarks/tokenizing.py                                        # 40 MB of the Python documentation
    python benchmarks/tokenizing.py --text stories.txt --processes 2 --turns 3

Each turn is a process of its own, whose clock starts when a short text has been tokenized, so that the libraries are
there. A text that is too small is taken again, with one word in a hundred changed, so that no cache of words has seen
it all. The seconds in which shards are made, which is what processes share, are told apart from all: from the hash of
the text, and where it is cut.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

SHARE = 0.01


def write(path: Path, megabytes: float, source: str | None) -> None:
    """Documents of a source with a blank line between, in any order, some words changed into new ones."""
    from llmkit.data.sources import open_source
    from llmkit.recipe import Source

    documents = [text.split(" ") for text, _ in open_source(Source(source or "builtin:python-docs")).documents()]
    rng, size = random.Random(0), 0
    with path.open("w") as out:
        while size < megabytes * 1e6:
            words = list(rng.choice(documents))
            for _ in range(max(1, int(SHARE * len(words)))):
                place = rng.randrange(len(words))
                words[place] = words[place][:3] + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=3))
            size += len(" ".join(words).encode())
            out.write(" ".join(words) + "\n\n")


def recipe(folder: Path, family: str) -> dict[str, Any]:
    """What is tokenized: by paragraphs, by a tokenizer that is trained once, before anything is measured."""
    tokenizer = folder / family
    trained = {"train": {"vocab_size": 8192, "sample": 4_000_000}}
    said = {"pretrained": str(tokenizer)} if tokenizer.is_dir() else trained
    return {"backbone": {"family": family, "size": "mini"}, "tokenizer": said,
            "objective": {"bert": "masked_lm", "gpt2": "causal_lm"}[family],
            "data": {"train": str(folder / "text.txt"), "document": "paragraph"}}


def once(folder: Path, family: str, processes: int) -> dict[str, Any]:
    """Tokenize with an empty cache: what it took, and the hash of all that was made."""
    with tempfile.TemporaryDirectory(dir=folder) as away:
        os.environ["LLMKIT_CACHE"] = f"{away}/cache"
        from llmkit import recipe as recipes
        from llmkit.planning.tokenizing import tokenize

        request = recipes.load(recipe(folder, family))
        few = Path(away, "few.txt")
        few.write_text("Libraries are imported for this.")
        tokenize(recipes.load({**recipe(folder, family), "data": {"train": str(few)}}), f"{away}/few", 1)
        before, began = os.times(), time.monotonic()
        found = tokenize(request, f"{away}/tokens", processes)
        whole, after = time.monotonic() - began, os.times()
        digest = hashlib.sha256()
        for path in sorted(Path(away, "tokens").glob("shard-*/*.*")):
            digest.update(path.read_bytes())
        return {"making": found["seconds"], "whole": whole, "tokens": found["tokens"], "digest": digest.hexdigest(),
                "here": sum(after[:2]) - sum(before[:2]), "others": sum(after[2:4]) - sum(before[2:4])}


def measure(folder: Path, family: str, processes: int) -> dict[str, Any]:
    """The same in a process of its own."""
    said = subprocess.run([sys.executable, __file__, "--once", str(folder), family, str(processes)],
                          capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if said.returncode:
        raise SystemExit(said.stderr)
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def compare(folder: Path, family: str, processes: int, turns: int) -> None:
    """Print each turn, and how many times as fast the medians are."""
    runs: dict[int, list[dict[str, Any]]] = {1: [], processes: []}
    for turn in range(turns):
        for count, found in runs.items():
            found.append(one := measure(folder, family, count))
            print(f"{family}, turn {turn + 1}, {count} process{'es' * (count > 1)}: shards {one['making']:.2f} s, all "
                  f"{one['whole']:.2f} s; CPU {one['here']:.2f} s here, {one['others']:.2f} s in others", flush=True)
    if len({one["digest"] for found in runs.values() for one in found}) != 1:
        raise SystemExit(f"{family}: the files differ")
    times = {what: median(one[what] for one in runs[1]) / median(one[what] for one in runs[processes])
             for what in ("making", "whole")}
    each = median(one["here"] for one in runs[processes]) + median(one["others"] for one in runs[processes]) / processes
    alone = median(one["here"] for one in runs[1])
    print(f"{family}: {times['making']:.2f} times as fast in making shards, {times['whole']:.2f} in all; by CPU "
          f"seconds {alone / each:.2f}, if each had a core; the same bytes")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--text", help="a source as in data.train; the Python documentation where none is named")
    asked.add_argument("--megabytes", type=float, default=40)
    asked.add_argument("--processes", type=int, default=2)
    asked.add_argument("--turns", type=int, default=3)
    asked.add_argument("--families", nargs="+", default=["gpt2", "bert"], choices=["gpt2", "bert"])
    asked.add_argument("--once", nargs=3, metavar=("FOLDER", "FAMILY", "N"), help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.once:
        print(json.dumps(once(Path(given.once[0]), given.once[1], int(given.once[2]))))
        return
    with tempfile.TemporaryDirectory() as away:
        folder = Path(away)
        os.environ["LLMKIT_CACHE"] = f"{away}/cache"
        write(folder / "text.txt", given.megabytes, given.text)
        from llmkit import recipe as recipes
        from llmkit.planning.settle import settle
        from llmkit.planning.vocabulary import speak

        for family in given.families:
            speak(settle(recipes.load(recipe(folder, family)), of_any_size=True)).save_pretrained(folder / family)
            compare(folder, family, given.processes, given.turns)


if __name__ == "__main__":
    main()
