"""Writing with SmolLM2: one prompt and 32, beside transformers' pipeline, greedy; and which tokens are the same.

    python -m benchmarks.speed.generate
"""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs

MODEL = "smollm2-135m-instruct"
THINGS = ("cats", "the sea", "a small red house in the country", "stars", "bread", "rivers of Africa", "music", "Paris")
PROMPTS = [f"Tell me {count} facts about {thing}." for count in (2, 3, 4, 5) for thing in THINGS]
ENDLESS = 0
"""A token that SmolLM2 never writes: it stands for the end, so that no text ends early."""


def measured(folder: Path, name: str, count: int, tokens: int, write: Any) -> dict[str, Any]:
    """Tokens a second of `write(talks, tokens)`, which gives each talk's token ids; they are kept for `alike`."""
    talks = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:count]]
    write(talks[:1], 4)
    start = time.perf_counter()
    ids = write(talks, tokens)
    seconds = time.perf_counter() - start
    assert [len(one) for one in ids] == [tokens] * count
    (folder / f"{name}.json").write_text(json.dumps(ids))
    return {"tokens_per_second": count * tokens / seconds}


def ours(folder: Path, count: int, tokens: int, dtype: str | None, **_: Any) -> dict[str, Any]:
    from llmkit.inference.writing.options import Options
    from llmkit.inference.writing.writer import Writer

    writer = Writer.open(MODEL, dtype=dtype)
    writer.opened.model.generation_config.eos_token_id = ENDLESS

    def write(talks: list[Any], tokens: int) -> list[list[int]]:
        options = Options(max_new_tokens=tokens, do_sample=False)
        return [list(one.ids) for (one,) in writer.write([writer.ids(talk) for talk in talks], options)]

    return measured(folder, "ours", count, tokens, write)


def stock(folder: Path, count: int, tokens: int, dtype: str | None, batch: int, **_: Any) -> dict[str, Any]:
    from transformers import pipeline

    from llmkit.models import resolve

    pipe: Any = pipeline("text-generation", model=str(resolve(MODEL)), **({} if dtype is None else {"dtype": dtype}))
    pipe.model.generation_config.eos_token_id = ENDLESS

    def write(talks: list[Any], tokens: int) -> list[list[int]]:
        made = pipe(talks, max_new_tokens=tokens, do_sample=False, return_tensors=True, batch_size=batch)
        return [one["generated_token_ids"][-tokens:] for (one,) in made]

    return measured(folder, "stock", count, tokens, write)


def alike(one: list[list[int]], other: list[list[int]]) -> str:
    """How many texts have the same tokens, and how far the others go before they part."""
    same = [next((i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), len(a))
            for a, b in zip(one, other, strict=True)]
    parted = [at for at, a in zip(same, one, strict=True) if at < len(a)]
    return f"{len(one) - len(parted)} of {len(one)} texts the same" + (
        f", the others part after {sum(parted) / len(parted):.0f} tokens" if parted else "")


def run(full: bool) -> list[pairs.Row]:
    """As both are opened (bfloat16 where the processor multiplies it), and in float32."""
    tokens, rounds = (100, 3) if full else (40, 1)
    found: list[pairs.Row] = []
    alone: list[list[int]] = []
    for work, count, batch, dtype in (
            ("one prompt", 1, 1, None), ("32 prompts, the pipeline as it comes", 32, 1, None),
            ("32 prompts, the pipeline told batch_size=32", 32, 32, None), ("one prompt, float32", 1, 1, "float32"),
            ("32 prompts, float32, batch_size=32", 32, 32, "float32")):
        with pairs.Bench(__name__, count=count, batch=batch, dtype=dtype) as bench:
            mine, theirs = bench.turns(("ours", "stock"), 3 if count == 1 else rounds,
                                       tokens=100 if count == 1 else tokens)
            one, other = (json.loads((bench.folder / f"{name}.json").read_text()) for name in ("ours", "stock"))
        reached = alike(one, other)
        if dtype is None and batch == 1:
            alone = other
        elif dtype is None:
            reached += f" (the pipeline beside itself, told batch_size=32 and not: {alike(other, alone)})"
        found.append(pairs.row(f"generate: {work}", "tokens a second", "tokens_per_second", mine, theirs, goal=2.0,
                               beside="pipeline", reached=reached))
    return found


if __name__ == "__main__":
    pairs.main(run, ours=ours, stock=stock)
