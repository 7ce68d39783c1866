"""Which decoding makes a story of "Tell me a story about a cat"? Ten texts by each, scored by rules.

    OMP_NUM_THREADS=1 python benchmarks/story.py               # a table in Markdown, 20 minutes on one core
    OMP_NUM_THREADS=1 python benchmarks/story.py --seeds 10    # the usual decoding alone, seeds 0 to 9, with texts

A text is a story where it passes all of three rules:

acts     in three sentences or more the cat, or who it is called, stands among the first six words, or the sentence
         before is such a one and this begins with "he", "she" or "it"
ends     its last whole sentence is the end of what is shown, and it has five sentences at least
no loop  nine of ten runs of four words stand in it once, and no sentence comes twice

`--questions` asks eight simple questions instead, and counts the right answers: chance that suits a story costs facts.
`--lengths` are limits on its tokens: a text of 500 tokens is looked at as if it had been cut at each of them.
"""

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MODEL = "smollm2-135m-instruct"
QUESTIONS = {
    "What is the capital of France?": ("paris",), "What is the capital of Japan?": ("tokyo",),
    "What colour is the sky?": ("blue",), "What is the largest ocean?": ("pacific",),
    "Who wrote Hamlet?": ("shakespeare",), "What is the opposite of hot?": ("cold",),
    "How many days are in a week?": ("seven", "7"), "What animal says meow?": ("cat",)}
"""What makes good stories may make wrong answers: a word that a right one has."""
PROMPT = "Tell me a story about a cat"
DECODINGS: tuple[dict[str, float], ...] = (
    {"repetition_penalty": 1.2},
    {"repetition_penalty": 1.1},
    {"temperature": 0.2, "top_p": 0.9},
    {"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.1},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2},
    {"temperature": 0.7, "min_p": 0.1, "repetition_penalty": 1.1},
    {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": 1.1},
)
"""The first is what the model had before; one without a temperature takes the likeliest token each time."""
CALLED = re.compile(r"(?:named|called|name was|name is|named her|named him) [\"“]?([A-Z]\w+)")
CATS = {"cat", "cats", "kitten", "kitty", "feline", "tabby", "cat's"}
PRONOUNS = {"he", "she", "it"}
FIRST = 6
"""Words of a sentence among which who acts in it stands."""


@dataclass(frozen=True)
class Score:
    """What the rules say of a text."""

    acts: int
    """Sentences in which the cat acts."""
    sentences: int
    distinct: float
    """Runs of four words that differ, of all of them."""
    twice: bool
    """Whether a sentence comes again."""
    whole: bool
    """Whether it ends with a sentence."""

    @property
    def story(self) -> bool:
        """Whether it passes all of them."""
        return self.acts >= 3 and self.whole and self.sentences >= 5 and self.distinct >= 0.9 and not self.twice


def score(text: str) -> Score:
    """Read a text by the rules.

    >>> score("A cat named Tom ran. He sat. Tom ate. The dog barked. It slept.").acts
    3
    """
    from llmkit.data.sentences import sentences

    found = [one for part in text.split("\n") if part.strip() for one in sentences(part, "punctuation")]
    who = CATS | {name.lower() for name in CALLED.findall(text)}
    acts, before = 0, False
    for sentence in found:
        words = [word.lower() for word in re.findall(r"[\w']+", sentence)]
        names = any(word in who or word.removesuffix("'s") in who for word in words[:FIRST])
        before = names or (before and words[:1] != [] and words[0] in PRONOUNS)
        acts += before
    words = re.findall(r"[\w']+", text.lower())
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return Score(acts, len(found), len(set(runs)) / max(1, len(runs)), len(set(found)) < len(found),
                 re.search(r"[.!?][\"'”’*)]*\s*$", text) is not None)


def written(
    decoding: dict[str, float], count: int, length: int, seed: int = 0, prompts: Sequence[str] = (PROMPT,),
) -> list[Any]:
    """So many texts for each prompt, each with a chance of its own."""
    from llmkit.inference.generate import Options, Writer

    writer = Writer.open(MODEL)
    if decoding and "temperature" not in decoding:
        writer.opened.model.generation_config.do_sample = False
        count = 1  # they would all be the same
    for name, usual in (("repetition_penalty", 1.0),) if decoding else ():
        setattr(writer.opened.model.generation_config, name, usual)
    options = Options(max_new_tokens=length, seed=seed, **decoding)  # type: ignore[arg-type]
    return [one for one, in writer.write([writer.ids(prompt) for prompt in prompts for _ in range(count)], options)]


def right_answers(decoding: dict[str, float], count: int) -> str:
    """A line of Markdown: how many answers are right."""
    texts = written(decoding, count, 24, prompts=list(QUESTIONS))
    each = len(texts) // len(QUESTIONS)
    words = [answer for answer in QUESTIONS.values() for _ in range(each)]
    right = sum(any(word in text.text.lower() for word in some) for text, some in zip(texts, words, strict=True))
    return f"| {called(decoding)} | {right} of {len(texts)} |"


def called(decoding: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in decoding.items()) or "the model's own"


def shown(completion: Any, length: int, tokenizer: Any) -> tuple[str, bool]:
    """(what is shown of a text that may have so many tokens, whether the model ended it itself)"""
    from llmkit.data.sentences import whole_until
    from llmkit.inference.writing.completion import decoded

    if completion.tokens <= length and completion.finish_reason == "stop":
        return completion.text, True
    text = decoded(tokenizer, completion.ids[:length])
    return text[:whole_until(text)], False


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row a decoding and length."""
    head = ("decoding", "tokens at most", "stories", "the cat acts", "ended by itself", "distinct", "words")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        lines.append(f"| {row['decoding']} | {row['length']} | {row['stories']} of {row['texts']} | "
                     f"{row['acts']:.1f} | {row['ended']} of {row['texts']} | {row['distinct']:.2f} | "
                     f"{row['words']:.0f} |")
    return "\n".join(lines)


def measured(decoding: dict[str, float], texts: Sequence[Any], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each length."""
    from llmkit.models import resolve
    from llmkit.models.files import quiet

    with quiet():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(resolve(MODEL))
    rows = []
    for length in lengths:
        seen = [shown(one, length, tokenizer) for one in texts]
        scores = [score(text) for text, _ in seen]
        rows.append({
            "decoding": called(decoding),
            "length": length, "texts": len(texts), "stories": sum(one.story for one in scores),
            "acts": statistics.mean(one.acts for one in scores), "ended": sum(ended for _, ended in seen),
            "distinct": statistics.mean(one.distinct for one in scores),
            "words": statistics.mean(len(text.split()) for text, _ in seen)})
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--texts", type=int, default=10, help="by each decoding")
    options.add_argument("--lengths", type=int, nargs="+", default=[200, 300, 400, 500])
    options.add_argument("--only", type=int, nargs="+", help="numbers of decodings, from 0")
    options.add_argument("--seeds", type=int, help="write by the model's own decoding, one text a seed, and show them")
    options.add_argument("--json", action="store_true", help="print the texts too, a line each, before the table")
    options.add_argument("--questions", action="store_true", help="answers to questions, not stories")
    given = options.parse_args()
    if given.questions:
        for decoding in ({}, *DECODINGS):
            print(right_answers(decoding, 5), flush=True)
        return
    rows: list[dict[str, Any]] = []
    if given.seeds is not None:
        texts = [written({}, 1, max(given.lengths), seed)[0] for seed in range(given.seeds)]
        for text in texts:
            print(json.dumps({"tokens": text.tokens, "finish_reason": text.finish_reason, "text": text.text}))
        rows += measured({}, texts, given.lengths)
    else:
        for number, decoding in enumerate(DECODINGS):
            if given.only is not None and number not in given.only:
                continue
            texts = written(decoding, given.texts, max(given.lengths))
            for text in texts if given.json else ():
                print(json.dumps({"decoding": decoding, "finish_reason": text.finish_reason, "text": text.text}),
                      flush=True)
            rows += measured(decoding, texts, given.lengths)
    print(table(rows))


if __name__ == "__main__":
    main()
