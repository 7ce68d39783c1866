"""Which scripts a model reads: what its catalogue entry says, else what its tokenizer makes of a text."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.data.encoder import texts_in
from llmkit.models.catalogue import find
from llmkit.models.run import recipe_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

LANGUAGES = {
    "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean", "THAI": "Thai",
    "DEVANAGARI": "Hindi", "GREEK": "Greek", "HEBREW": "Hebrew", "ARABIC": "Arabic", "ARMENIAN": "Armenian",
    "GEORGIAN": "Georgian", "BENGALI": "Bengali", "TAMIL": "Tamil", "TELUGU": "Telugu"}
"""What a script is called here by its first word in Unicode; others by that word: Cyrillic."""
SYLLABLES = frozenset({"Chinese", "Japanese", "Korean", "Thai"})
"""Whose characters are worth a token each, or nearly: a word has one or two, or no space around it."""
LATIN = "Latin"
FEWEST = {True: 0.7, False: 1.35}
"""Characters a token, of these scripts and of alphabets, below which a tokenizer reads letters or bytes, not words.
SmolLM2's has .58 of Chinese, 1.12 of Russian and 3.3 of English; one that learned from a language has 1 and more
characters of Chinese, 2 and more letters of an alphabet."""
SMALL = 3000
"""Tokens: a vocabulary below this reads any language letter by letter, or byte by byte, so that nothing follows."""
CHINESE = "什么是语言模型？请讲一个关于猫的故事，今天的天气很好。"
"""What a model that has learned Chinese reads without cutting characters to bytes."""
READ = 2000
"""Characters of a text that are looked at."""


def script(text: str) -> str | None:
    """What most letters of a text are: Latin, Chinese, Japanese, Cyrillic …; None where no script has most of them.

    >>> script("Tell me a story"), script("给我讲 a 故事"), script("猫の話をして"), script("Расскажи"), script("3 + 4")
    ('Latin', 'Chinese', 'Japanese', 'Cyrillic', None)
    """
    counts: Counter[str] = Counter()
    for letter in text[:READ]:
        if letter.isalpha():
            word = unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]
            counts[LANGUAGES.get(word, word.capitalize())] += 1
    if counts["Japanese"] * 10 >= counts["Chinese"]:
        counts["Japanese"] += counts.pop("Chinese", 0)  # kana stand among ideographs
    most, = counts.most_common(1) or [("", 0)]
    return most[0] if most[1] >= 2 and 2 * most[1] > counts.total() else None


def unread(text: str, name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What to say where a text is mostly of a script that a model hasn't learned, as far as one can see; else None.

    The catalogue says it of its models. Of others the tokenizer tells: what it was never made for, it cuts to pieces.
    What is written in Latin letters can't be told apart so, and nothing is said of it.
    """
    written = script(text)
    if written in (None, LATIN):
        return None
    entry = find(name)
    if entry is not None and entry.languages:
        if written in entry.languages:
            return None
        why = f"{name} was trained on {' and '.join(entry.languages)}"
    else:
        letters, tokens = pieces(text, tokenizer)
        if len(tokenizer) < SMALL or not tokens or letters / tokens >= FEWEST[written in SYLLABLES]:
            return None
        why = (f"the tokenizer of {name} knows hardly any of it: it cuts {letters:,} characters into {tokens:,} "
               "tokens, so the model can have learned little of it")
    tuned = "unless it was tuned on such text, " if entry is None and recipe_of(folder) is not None else ""
    return (f"most of the text is {written}, and {why}; {tuned}what it writes will make little sense. Write in another "
            f"language, or choose a model that knows {written}.")


def pieces(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """(letters of a text that aren't ASCII, the tokens that they become); marks above and below letters count."""
    apart = "".join(one if _counts(one) or one == " " else "\n" for one in text[:READ]).split("\n")
    runs: Any = [run for run in apart if run.strip()]  # with the spaces within: tokens of words may begin with one
    ids = tokenizer(runs, add_special_tokens=False)["input_ids"] if runs else []
    return sum(map(_counts, "".join(runs))), sum(map(len, ids))


def _counts(letter: str) -> bool:
    return not letter.isascii() and unicodedata.category(letter)[0] in "LM"


def reads_chinese(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a model may be spoken to in Chinese, as far as its catalogue entry or its tokenizer tells."""
    return unread(CHINESE, name, folder, tokenizer) is None


class UnreadScript:
    """Says of the first text whose script a model doesn't know that it doesn't; once."""

    def __init__(self, name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name, self.folder, self.tokenizer = name, folder, tokenizer
        self.said = False

    @property
    def chinese(self) -> bool:
        """Whether the model may be spoken to in Chinese."""
        return reads_chinese(self.name, self.folder, self.tokenizer)

    def warn(self, texts: Any) -> None:
        """Look at a text, or at all texts of a conversation."""
        if not self.said and (note := unread(" ".join(texts_in(texts)), self.name, self.folder, self.tokenizer)):
            self.said = True
            log.warning("%s", note)
