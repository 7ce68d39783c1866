"""What generation gives beside transformers' pipeline, and what keeping keys and values saves: one run, as ratios.

    OMP_NUM_THREADS=1 python benchmarks/generation.py            # minutes; --tokens 100 --rounds 3

SmolLM2, greedy, both sides in the numbers that llmkit opens it in, and neither may end early. Then the next turn of a
long conversation, and labels by a prompt with 8 examples, each with and without what was read before.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

THINGS = ("cats", "the sea", "a small red house in the country", "stars", "bread", "rivers of Africa", "music", "Paris")
PROMPTS = [f"Tell me {count} facts about {thing}." for count in (2, 3, 4, 5) for thing in THINGS]
MODEL = "smollm2-135m-instruct"


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def beside_the_pipeline(tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second: of one prompt, and of 32."""
    from transformers import pipeline

    from llmkit.models import resolve
    from llmkit.writing import Options, Writer

    writer = Writer.open(MODEL)
    pipe: Any = pipeline("text-generation", model=str(resolve(MODEL)), dtype=writer.opened.model.dtype)
    pipe.tokenizer.padding_side = "left"
    for model in (writer.opened.model, pipe.model):
        model.generation_config.eos_token_id = 0
    options = Options(max_new_tokens=tokens, do_sample=False)
    talks = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]

    def ours(some: list[Any]) -> None:
        writer.write([writer.ids(talk) for talk in some], options)

    def theirs(some: list[Any], **how: Any) -> None:
        pipe(some, max_new_tokens=tokens, do_sample=False, return_full_text=False, **how)

    ours(talks[:1])
    theirs(talks[:1])
    ways = {"one prompt": (1, {}), "32 prompts": (32, {}), "32 prompts, batch_size=32": (32, {"batch_size": 32})}
    found: dict[str, Any] = {"dtype": str(writer.opened.model.dtype)}
    for name, (count, how) in ways.items():
        pairs = [(seconds(lambda: ours(talks[:count])), seconds(lambda: theirs(talks[:count], **how)))  # noqa: B023
                 for _ in range(rounds if count == 1 else 1)]
        mine, other = (count * tokens / statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        found[name] = {"llmkit": round(mine, 1), "pipeline": round(other, 1), "ratio": round(mine / other, 2)}
    return found


def next_turn() -> dict[str, Any]:
    """Seconds of CPU to the first token of a turn after a long conversation."""
    from llmkit.chatting import USUAL, Chat
    from llmkit.writing import Memory

    chat = Chat.open(MODEL, replace(USUAL, max_new_tokens=4))
    for thing in THINGS[:4]:
        chat.say(f"This is what I know of {thing}: " + f"there is a lot to be said of {thing}, and more of it. " * 12)

    def first(kept: bool) -> float:
        if not kept:
            chat.memory = Memory()
        at: list[float] = []
        start = time.process_time()
        chat.say("And then?", lambda _: at.append(time.process_time() - start))
        return round(at[0], 3)

    turns = [(first(True), first(False)) for _ in range(3)]
    return {"tokens": len(chat.fitting()), "kept": statistics.median(one for one, _ in turns),
            "read_again": statistics.median(other for _, other in turns)}


def shared_examples() -> dict[str, Any]:
    """Positions and seconds of CPU for 12 inputs behind the same 8 examples, and how far probabilities differ."""
    from llmkit import evaluation, prompted, scoring, variants
    from llmkit.data.sources import open_source
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
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=100)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    print(json.dumps({"pipeline": beside_the_pipeline(given.tokens, given.rounds), "next_turn": next_turn(),
                      "shared_examples": shared_examples()}, indent=1))


if __name__ == "__main__":
    main()
