"""Alphabets that one byte a letter is enough for: how usual a letter is in its language, where it stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

MARKS = frozenset("«»„“”‘’‚–—…€£§°·¿¡№\xa0\xad")
"""What stands in texts of every language."""


@dataclass(frozen=True)
class Alphabet:
    """The letters of a script beyond ASCII."""

    first: str
    last: str
    """Of its block in Unicode."""
    usual: Mapping[str, float]
    """How usual a letter is, from 0 to 1; one that isn't there is RARE."""
    closing: frozenset[str] = field(default_factory=frozenset)
    """Letters that only end a word."""
    inner: frozenset[str] = field(default_factory=frozenset)
    """Letters that never end a word, for they have another form there."""


RARE = 0.3
"""How usual a letter is that isn't among the usual ones."""
UNDECIDED = 0.3
"""What a letter is worth that stands alone."""


def _weighted(often: str, sometimes: str) -> dict[str, float]:
    return {**dict.fromkeys(often, 1.0), **dict.fromkeys(sometimes, 0.7)}


CYRILLIC = Alphabet("\u0400", "\u04ff", _weighted("оеаинтсрвлкі", "мдпуяыьї"))
GREEK = Alphabet("\u0370", "\u03ff", _weighted("αοιετνσηρςπκυλ", "μάέήίόύωγδώ"), frozenset("ς"), frozenset("σ"))
HEBREW = Alphabet("\u0590", "\u05ff", _weighted("יוהלאתרםש", "מבנקדחעפן"), frozenset("םןךףץ"))
ARABIC = Alphabet("\u0600", "\u06ff", _weighted("اليمونرته", "بعدسفكقةأح"), frozenset("ةى"))
THAI = Alphabet("\u0e00", "\u0e7f", _weighted("านรอกเง่ม้ัยลวด", "ทิีสตะหแปคบจชูพขำไใโผืุ็์"))
ALPHABETS = {"cp1251": CYRILLIC, "koi8_r": CYRILLIC, "iso8859_5": CYRILLIC, "cp866": CYRILLIC, "cp1253": GREEK,
             "iso8859_7": GREEK, "cp1255": HEBREW, "cp1256": ARABIC, "iso8859_6": ARABIC, "cp874": THAI}
"""The script that an encoding is for."""
WESTERN = ("éèêàçùûôîïœëâæ", "äöüß", "áéíóúñü", "ãõçáéíóúâêôàü", "àèéìòù", "åäöé", "æøåéóòô", "ëïéèóöü", "þðáéíóúýæö",
           "àèéíïóòúüç", "õäöüšž", "áéíóú")
"""Letters with accents: French, German, Spanish, Portuguese, Italian, Swedish, Danish and Norwegian, Dutch, Icelandic,
Catalan, Estonian, Irish."""
CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "čćđšž", "ăâîşţ")
"""Polish, Czech, Slovak, Hungarian, Croatian and Slovene, Romanian."""
TURKISH, BALTIC = ("çğıöşüâîû",), ("ąčęėįšųūž", "āčēģīķļņšūž", "õäöüšž")
LANGUAGES = {"cp1252": WESTERN, "cp1250": CENTRAL, "iso8859_2": CENTRAL, "cp1254": TURKISH, "cp1257": BALTIC}
"""The letters with accents of each language that an encoding is for."""
OFTEN = frozenset("éèàäöüåøæñãõíó")
"""One of these stands in any longer text of these languages."""
SOME, SELDOM = 4, 0.9
"""Letters from which on a text is longer, and what one without any of those is worth."""
COVERED = {"cp1252": 0.3}
"""How much of a weight goes by whether one language has all of the letters; all of it where nothing is said."""


def coverage(text: str, encoding: str) -> float:
    """Of the letters beyond ASCII, the share that one language has; 1 where there are none.

    >>> coverage("żółć", "cp1250"), coverage("żółć".encode("cp1250").decode("cp1252"), "cp1252")
    (1.0, 0.6666666666666666)
    """
    letters = [char for char in text.casefold().replace("i̇", "i") if char > "\x7f" and char not in MARKS]
    if not letters:
        return 1.0
    share = max(sum(char in language for char in letters) for language in LANGUAGES[encoding]) / len(letters)
    seldom = encoding == "cp1252" and len(letters) >= SOME and not any(char in OFTEN for char in letters)
    return share * SELDOM if seldom else share


def of_languages(text: str, encoding: str, weight: float) -> float:
    """The weight of a text in letters with accents, less where no language has them all."""
    share = COVERED.get(encoding, 1.0)
    return weight * (1 - share + share * coverage(text, encoding))


def latin(before: str, char: str, after: str) -> float:
    """A letter with an accent stands among plain ones, and a capital at a word's beginning."""
    if char in MARKS:
        return 0.7
    if not char.isalpha() or char in "ªº":
        return 0.1
    beside = [other for other in (before, after) if other.isalpha()]
    plain = beside and all(other.isascii() for other in beside)
    return 0.1 if not plain or (char.isupper() and before.islower()) else 0.9


def accented(before: str, char: str, after: str) -> float:
    """As `latin`, of languages in which letters with accents stand beside each other: żółw, příští."""
    if not char.isalpha() or char in MARKS:
        return latin(before, char, after)
    beside = [other for other in (before, after) if other.isalpha()]
    return 0.1 if not beside or (char.isupper() and before.islower()) else 0.9


def letter(before: str, char: str, after: str, alphabet: Alphabet) -> float:
    """A word has letters of one alphabet, a capital at its beginning, and at its end what only stands there."""
    if not alphabet.first <= char <= alphabet.last:
        return 0.5 if char in MARKS else 0.0
    beside = [other for other in (before, after) if of_word(other)]
    if any(other.isascii() for other in beside):
        return 0.0
    if unicodedata.category(char) == "Mn" and not of_word(before):
        return 0.0  # it stands on a letter
    if not beside:
        return UNDECIDED
    if char.isupper():
        return 0.0 if before.islower() else UNDECIDED if before.isupper() else 0.6
    if (char in alphabet.closing and of_word(after)) or (char in alphabet.inner and not of_word(after)):
        return 0.0
    return alphabet.usual.get(char, RARE)


def of_word(char: str) -> bool:
    """Whether a character is a letter, or a mark on one."""
    return char.isalpha() or unicodedata.category(char) in ("Mn", "Mc")
