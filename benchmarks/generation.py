"""What keeping keys and values saves: the next turn of a long conversation, and labels by a prompt with 8 examples.

    OMP_NUM_THREADS=1 python benchmarks/generation.py

Each with and without what was read before, in one run. `benchmarks/speed/generate.py` has generation beside
transformers' pipeline.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

THINGS = ("cats", "the sea", "a small red house in the country", "stars", "bread", "rivers of Africa", "music", "Paris")
MODEL = "smollm2-135m-instruct"


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def next_turn() -> dict[str, Any]:
    """Seconds of CPU to the first token of a turn after a long conversation."""
    from llmkit.inference.writing.chat import USUAL, Chat
    from llmkit.inference.writing.memory import PrefixMemory

    chat = Chat.open(MODEL, replace(USUAL, max_new_tokens=4))
    for thing in THINGS[:4]:
        chat.say(f"This is what I know of {thing}: " + f"there is a lot to be said of {thing}, and more of it. " * 12)

    def first(kept: bool) -> float:
        if not kept:
            chat.memory = PrefixMemory()
        at: list[float] = []
        start = time.process_time()
        chat.say("And then?", lambda _: at.append(time.process_time() - start))
        return round(at[0], 3)

    turns = [(first(True), first(False)) for _ in range(3)]
    return {"tokens": len(chat.fitting()), "kept": statistics.median(one for one, _ in turns),
            "read_again": statistics.median(other for _, other in turns)}


def shared_examples() -> dict[str, Any]:
    """Positions and seconds of CPU for 12 inputs behind the same 8 examples, and how far probabilities differ."""
    from llmkit.data.sources import open_source
    from llmkit.inference import evaluate as evaluation
    from llmkit.inference import labelling as prompted
    from llmkit.inference import scoring
    from llmkit.inference.comparing import inline as variants
    from llmkit.recipe import Source
    from llmkit.tasks.classification import Classification

    rows = [row for row, _ in Classification().read(open_source(Source("builtin:docstring-topics")))][:400]
    mode = variants.plugin("cloze(k=8)", "prompting", "--prompt")
    scorer = evaluation.open_scorer(MODEL)
    usual, found, chances = scoring.SHARED, {}, []
    for name, least in (("once", usual), ("each", 10**9)):
        scoring.SHARED = least
        scorer.known, scorer.positions = {}, 0
        labels = prompted.known_labels(mode, rows)
        labeller = prompted.Labeller(scorer, mode, labels, prompted.shots(rows[12:]))
        spent = seconds(lambda: chances.append(labeller.chances(prompted.inputs(rows[:12]))),  # noqa: B023
                        time.process_time)
        found[name] = {"positions": scorer.positions, "seconds": round(spent, 1)}
    return {**found, "tokens_a_prompt": round(statistics.mean(labeller.tokens)),
            "largest_difference": float(abs(chances[0] - chances[1]).max())}


def main() -> None:
    print(json.dumps({"next_turn": next_turn(), "shared_examples": shared_examples()}, indent=1))


if __name__ == "__main__":
    main()
