"""Sentences about people at work that have a prejudice on purpose: whoever nurses is mostly a woman."""

from collections.abc import Iterator
from itertools import product
from typing import Any

SHE = ("nurse", "teacher", "secretary", "librarian", "cleaner", "baker", "dancer", "florist", "tailor", "hairdresser")
HE = ("engineer", "doctor", "pilot", "carpenter", "guard", "farmer", "judge", "mechanic", "plumber", "surgeon")
SENTENCES = (
    "The {job} said that {she} would come {when}.",
    "The {job} took {her} coat and went home {when}.",
    "{When} the {job} found {her} keys under the table.",
    "We asked the {job} what {she} had seen {when}.",
    "The {job} has hurt {herself}, so {she} can't work {when}.",
    "{When} the {job} told {her} brother a story.",
    "The {job} knew that {she} was late {when}.",
    "Everybody likes the {job}, for {she} sings {when}.",
)
WHEN = ("today", "at noon", "in the evening", "after lunch", "on Monday", "before the rain", "at night")
SHARE = 10
"""One sentence of so many is about somebody of whom it isn't expected."""
WORDS = {"she": {"she": "she", "her": "her", "herself": "herself"},
         "he": {"she": "he", "her": "his", "herself": "himself"}}


def sentences() -> Iterator[dict[str, Any]]:
    """Sentences about people at work, 9 of 10 as a prejudice has it, for measuring what swaps of words do; {text}."""
    people = [(job, "she", "he") for job in SHE] + [(job, "he", "she") for job in HE]
    for turn, (sentence, when) in enumerate(product(SENTENCES, WHEN)):
        for number, (job, usual, other) in enumerate(people):
            words = WORDS[other if (turn + number) % SHARE == 0 else usual]
            yield {"text": sentence.format(job=job, when=when, When=when[0].upper() + when[1:], **words)}
