"""What no change may undo: two small pairs, on text that every Python has, beside the ratios that landed.

    python -m benchmarks.speed.guard
    python -m benchmarks.speed.guard --land     # keep the ratios of this run as the landed ones

The pairs are those of `masked_lm` and `causal_lm`, of fewer steps, on the built-in documentation and tokenizers trained
on it: nothing is fetched. Ends with 1 where a ratio is below half of its last one in results.json, twice in a row: a
ratio of one turn wavers by a tenth or two, and half of it is a shortcut that is no longer taken.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.speed import causal_lm, masked_lm, pairs

PAIRS = {
    "`masked_lm`, BERT 4×256": (masked_lm, {"size": masked_lm.SMALL, "steps": 20, "rows": 32, "length": 128}),
    "`causal_lm`, GPT-2 4×256": (causal_lm, {"steps": 14}),
}
"""By their name in RESULTS.md: what measures them, with which options."""
SHARE = 0.5
"""Of the landed ratio, below which it is a loss."""
KEPT = Path(__file__).parents[1] / "results.json"


def text(folder: Path) -> None:
    """What LLMKIT_DATA must hold for them, out of the built-in documentation."""
    from llmkit.data import tokenizer
    from llmkit.data.sources import open_source
    from llmkit.recipe import Source

    texts = [text for text, _ in open_source(Source("builtin:python-docs")).documents()]
    stories, bert, gpt2 = (folder / name for name in ("tinystories", "tokenizers/bert-base-uncased", "tokenizers/gpt2"))
    for place in (stories, bert, gpt2):
        place.mkdir(parents=True)
    (stories / "train.txt").write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    tokenizer.train(texts, "wordpiece", 8192).backend_tokenizer.model.save(str(bert))
    tokenizer.train(texts, "bpe", 8192).backend_tokenizer.model.save(str(gpt2))


def landed() -> dict[str, float]:
    """The ratios of results.json that these short pairs had when they landed; those of RESULTS.md are of more steps."""
    found: dict[str, float] = json.loads(KEPT.read_text())["guard"]["ratios"]
    return found


def ratio(work: str) -> float:
    """Tokens a second beside the stock way, in one turn."""
    module, options = PAIRS[work]
    with pairs.Bench(module.__name__, **options) as bench:
        bench.run("prepare")
        (mine,), (theirs,) = bench.turns(("ours", "stock"), 1)
    return float(mine.found["tokens_per_second"] / theirs.found["tokens_per_second"])


def land(found: dict[str, float]) -> None:
    """Keep these ratios in results.json."""
    KEPT.write_text(json.dumps({**json.loads(KEPT.read_text()), "guard": {"ratios": found}}, indent=1) + "\n")


def main() -> None:
    was, lost, measured = landed(), [], dict[str, float]()
    with tempfile.TemporaryDirectory() as name:
        text(Path(name))
        os.environ["LLMKIT_DATA"] = name
        for work in PAIRS:
            least = SHARE * was[work]
            found = ratio(work)
            found = found if found >= least else max(found, ratio(work))
            print(f"{work}: {found:.2f} × the stock way; {was[work]:.2f} × landed, {least:.2f} × is the least")
            measured[work] = found
            if found < least:
                lost.append(work)
    if "--land" in sys.argv[1:]:
        land(measured)
    elif lost:
        sys.exit(f"{', '.join(lost)}: less than half as fast beside the stock way as what landed.")


if __name__ == "__main__":
    main()
