"""Vectors of passages by MiniLM, beside sentence-transformers told nothing, which must be installed.

    LLMKIT_DATA=folder python -m benchmarks.speed.embed
"""

import itertools
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs

MODEL = "minilm-l6"


def prepare(folder: Path, passages: int) -> dict[str, Any]:
    """The built-in documentation by its paragraphs."""
    from llmkit.data.sources import open_source
    from llmkit.recipe import Source

    documents = open_source(Source("builtin:python-docs"), "paragraph").documents()
    texts = [text for text, _ in itertools.islice(documents, passages)]
    (folder / "texts.json").write_text(json.dumps(texts))
    return {"passages": len(texts)}


def ours(folder: Path, passages: int, turn: int) -> dict[str, Any]:
    from llmkit.inference.embedding import Embedder

    return timed(folder, "ours", Embedder.open(MODEL).embed)


def narrow(folder: Path, passages: int, turn: int) -> dict[str, Any]:
    """By llmkit in bf16, as `--precision bf16` has it."""
    from llmkit.inference.embedding import Embedder

    return timed(folder, "narrow", Embedder.open(MODEL, precision="bf16").embed)


def stock(folder: Path, passages: int, turn: int) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    from llmkit import models

    return timed(folder, "stock", SentenceTransformer(str(models.resolve(MODEL)), device="cpu").encode)


def timed(folder: Path, name: str, embed: Any) -> dict[str, Any]:
    """Texts a second of `embed(texts)`; the vectors are kept."""
    import numpy as np

    texts = json.loads((folder / "texts.json").read_text())
    embed(texts[:8])
    start = time.perf_counter()
    vectors = embed(texts)
    seconds = time.perf_counter() - start
    np.save(folder / f"{name}.npy", vectors)
    return {"texts_per_second": len(texts) / seconds}


def apart(folder: Path, passages: int, side: str) -> dict[str, Any]:
    """How far the vectors of both sides are apart: the largest distance of a number, and the lowest cosine."""
    import numpy as np

    a, b = (np.load(folder / f"{name}.npy").astype(np.float64) for name in (side, "stock"))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {"distance": float(abs(a - b).max()), "cosine": float(cosines.min())}


def run(full: bool) -> list[pairs.Row]:
    """10,000 passages, or 2,000."""
    passages = 10_000 if full else 2_000
    with pairs.Bench(__name__, passages=passages) as bench:
        passages = bench.run("prepare").found["passages"]
        mine, narrower, theirs = bench.turns(("ours", "narrow", "stock"), 3)
        far = [bench.run("apart", side=side).found for side in ("ours", "narrow")]
    return [pairs.row(f"embed {passages:,} passages, MiniLM{how}", "texts a second", "texts_per_second", runs, theirs,
                      goal=2.0, beside="sentence-transformers",
                      reached=f"numbers differ by {one['distance']:.1e} at most, cosine {one['cosine']:.6f} at least")
            for how, runs, one in zip(("", ", bf16"), (mine, narrower), far, strict=True)]


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, narrow=narrow, stock=stock, apart=apart)
