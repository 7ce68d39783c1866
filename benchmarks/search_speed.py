"""When is it worth comparing a part of the vectors only? Exact by numpy, exact by FAISS, and FAISS's inverted file.

    OMP_NUM_THREADS=1 python benchmarks/search_speed.py --vectors 100000

Vectors of real passages (of an index that is in the cache, else those of the built-in documentation, which takes
minutes to embed), each many times with noise, until there are enough; queries are such vectors with other noise.
Times are of a core, not of a clock, so that they mean the same on a busy machine; of a query, the best of several.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llmkit.inference.indexing import BLOCK, Index, Near, _make_near, faiss, unit
from llmkit.inference.search import Searcher


def noisy(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` vectors around these: cosines to their own of about 0.86."""
    out = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, BLOCK):
        chosen = vectors[rng.integers(0, len(vectors), min(BLOCK, count - start))]
        noise = rng.standard_normal(chosen.shape, np.float32) * (0.6 / chosen.shape[1] ** 0.5)
        out[start : start + BLOCK] = unit(chosen + noise)
    return out


def best(what: Callable[[], object], times: int = 9) -> float:
    """A core's seconds of the fastest of several."""
    spent = []
    for _ in range(times):
        started = time.process_time()
        what()
        spent.append(time.process_time() - started)
    return min(spent)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--vectors", type=int, default=100_000)
    options.add_argument("--in", dest="place", default="builtin:python-docs")
    given = options.parse_args()
    rng = np.random.default_rng(0)
    real = np.array(Searcher.open(given.place).index.vectors)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "vectors.npy", noisy(real, given.vectors, rng))
        for array in ("files", "lines", "ends"):
            np.save(folder / f"{array}.npy", np.arange(given.vectors))
        np.save(folder / "digests.npy", np.arange(given.vectors).astype(np.uint64))
        (folder / "texts.bin").write_bytes(b"x")
        index, queries = Index(folder), noisy(real, 200, rng)
        right = [[row for _, row in found] for found in index.closest(queries, 5)]
        rows = [("numpy, exact", 0.0, best(lambda: index.closest(queries[:1], 5)), 1.0)]
        library = faiss()
        started = time.process_time()
        flat = library.IndexFlatIP(real.shape[1])
        flat.add(index.vectors)
        built = time.process_time() - started
        rows.append(("FAISS IndexFlatIP, exact", built, best(lambda: flat.search(queries[:1], 5)),
                     recall(right, flat.search(queries, 5)[1].tolist())))
        started = time.process_time()
        _make_near(index.vectors, folder)
        built = time.process_time() - started
        index.near = Near(folder)
        found = [[row for _, row in some] for some in index.closest(queries, 5)]
        rows.append(("FAISS inverted file, --approximate", built, best(lambda: index.closest(queries[:1], 5)),
                     recall(right, found)))
    print(f"{given.vectors:,} vectors of {real.shape[1]}\n\n| | built in | a query | recall@5 |\n|---|---|---|---|")
    for what, made, asked, share in rows:
        print(f"| {what} | {made:.1f} s | {1000 * asked:.2f} ms | {share:.3f} |")


def recall(right: list[list[int]], found: list[list[int]]) -> float:
    """The share of the closest five that was found."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(right, found, strict=True)]))


if __name__ == "__main__":
    main()
