"""Text of any size: TinyStories again and again, in random order, some words of each story changed into new ones."""

import random
from pathlib import Path

from benchmarks.speed import pairs


def write(path: Path, megabytes: float, seed: int = 0, share: float = 0.01) -> None:
    """Stories with <|endoftext|> between; a `share` of their words ends in letters that no other word ends in."""
    stories = pairs.data("tinystories/train.txt").read_text().split("<|endoftext|>")
    words = [story.strip().split(" ") for story in stories if story.strip()]
    rng, size = random.Random(seed), 0
    with path.open("w") as out:
        while size < megabytes * 1e6:
            story = list(rng.choice(words))
            for _ in range(max(1, int(share * len(story)))):
                place = rng.randrange(len(story))
                story[place] = story[place][:3] + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=3))
            size += out.write(" ".join(story) + "\n<|endoftext|>\n")
