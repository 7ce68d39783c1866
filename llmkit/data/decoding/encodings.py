"""Which encoding do bytes have? The one in which their characters are the usual ones of a language.

Most bytes decode in most encodings, so that this tells little: gb18030 reads nearly all of Big5, and latin-1 reads all
bytes. But what is decoded wrongly has rare characters side by side, and those of one language are common ones. National
standards put them first: level 1 of GB 2312, Big5 and JIS X 0208 has the characters of daily use.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence

from llmkit.data.decoding.alphabets import ALPHABETS, LANGUAGES, MARKS, accented, latin, letter, of_languages

CANDIDATES = ("utf-8", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp949", "cp1252", "cp1250", "iso8859_2",
              "cp1254", "cp1257", *ALPHABETS)
"""What is tried; of two that fit alike, the first."""
ENOUGH = {**dict.fromkeys(CANDIDATES, 0.5), **dict.fromkeys(ALPHABETS, 0.7)}
"""The mean weight of a character from which on an encoding is named; more where any byte is a letter."""
LINES, LONGEST, SHOWN = 100, 400, 40
"""Lines that are judged, bytes of each, and characters that are shown of one."""

HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动"
    "面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体"
    "政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变"
    "四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完"
    "設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識候帶導爭運這個們來為國說時會對過發後裡種經麼學沒動還進樣開從實軍無與長機關"
    "點業將兩間應戰頭體見產話給門兒東聲員論處義幾認條氣題爾別變總電數報結務場計資許統區隊決馬書則聽達強難權設記類據張規萬觀領確傳師讓識帶導爭運坏壞")
"""The hanzi that stand most often in Chinese, in both scripts."""
HANGUL = frozenset(
    "이다는을를에의가고하은지도로사기리어자시인나대한해아그있서니들라과수정일전부스만주보제장상원구공게오동성으것우여비경소"
    "계면년간적화했안조할물거교용유때신학세모분무중국되실방요마습같회말행문생좋까더던된려예")
"""The syllables that stand most often in Korean."""
LEVEL_1 = {"gb18030": ("gb2312", 0xB0A1, 0xD7F9), "big5": ("big5", 0xA440, 0xC67E),
           "shift_jis": ("shift_jis", 0x889F, 0x9872), "euc_jp": ("shift_jis", 0x889F, 0x9872)}
"""Codec, first and last code of the characters that an encoding holds for usual."""


def weight(text: str, encoding: str) -> float:
    """How usual the characters beyond ASCII are, from 0 to 1, where bytes were decoded so; 0 where there are none.

    >>> weight("清晨的港口", "gb18030") > weight("睲馨翠", "big5")
    True
    """
    padded = f" {text} "
    each = [_of(padded[i - 1], padded[i], padded[i + 1], encoding)
            for i in range(1, len(padded) - 1) if padded[i] > "\x7f"]
    mean = max(0.0, sum(each) / len(each)) if each else 0.0
    return of_languages(text, encoding, mean) if encoding in LANGUAGES else mean


def _of(before: str, char: str, after: str, encoding: str) -> float:
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Co", "Cn"):
        return -1.0
    if encoding in ("cp1252", "utf-8"):
        return latin(before, char, after)
    if encoding in LANGUAGES:
        return accented(before, char, after)
    if encoding in ALPHABETS:
        return letter(before, char, after, ALPHABETS[encoding])
    if all(other.isascii() and other.isalpha() for other in (before, after)):
        return 0.2  # within a word
    if "\u4e00" <= char <= "\u9fff":
        return _han(char, encoding)
    if "\u3040" <= char <= "\u30ff":
        return 1.0 if encoding in ("shift_jis", "euc_jp") else 0.2
    if "\uac00" <= char <= "\ud7a3":
        return 1.0 if char in HANGUL else 0.45
    return 0.7 if "\u3000" <= char <= "\u3015" or "\uff01" <= char <= "\uff5e" or char in MARKS else 0.1


def _han(char: str, encoding: str) -> float:
    if encoding in ("euc_kr", "cp949"):
        return 0.2
    codec, first, last = LEVEL_1.get(encoding, ("gb2312", 0, 0))
    try:
        usual = first <= int.from_bytes(char.encode(codec)) <= last
    except UnicodeEncodeError:
        return 0.0
    return 1.0 if char in HAN and usual else 0.55 if usual else 0.1


def best(lines: Sequence[bytes], but: str = "") -> str | None:
    """The encoding in which lines read best, another than `but`; None where they read well in none."""
    found: dict[str, float] = {}
    for encoding in CANDIDATES:
        text = "\n".join(codecs.getincrementaldecoder(encoding)("replace").decode(line[:LONGEST]) for line in lines)
        if encoding == "utf-8":  # no text of another encoding has just its patterns
            found[encoding] = 0.0 if "\ufffd" in text or text.isascii() else 1.0
        else:
            found[encoding] = weight(text, encoding)
    found.pop(but, None)
    likeliest = max(found, key=lambda name: found[name])
    return likeliest if found[likeliest] >= ENOUGH[likeliest] else None


def wide(head: bytes) -> str | None:
    """utf-16-le or utf-16-be, where bytes without a mark are text in units of two; None where they aren't.

    >>> wide("The harbour".encode("utf-16-le"))
    'utf-16-le'
    """
    head = head[: len(head) // 2 * 2]
    if b"\0" not in head:
        try:
            head[:-4].decode()
            return None
        except UnicodeDecodeError:
            pass
    for encoding in ("utf-16-le", "utf-16-be"):
        text = head.decode(encoding, "replace")
        usual = sum(char in "\t\n\r" or " " <= char <= "\x7e" or "\u3000" <= char <= "\u3002" or char in HAN
                    for char in text)
        if len(text) > 3 and usual / len(text) > 0.5 and not 0 < head.count(0) < len(text) // 20:
            return encoding
    return None


def advice(data: bytes, at: int, encoding: str, label: str, ends: bool) -> str:
    """What to do about the byte at `data[at]`, which isn't of the encoding.

    data     what stands around it
    label    what the recipe calls the source
    ends     whether the file ends where the data does
    """
    if ends and len(data) - at < 4 and encoding == "utf-8" and _starts_a_character(data[at:]):
        return "the file ends within a character: it was cut short."
    start = data.rfind(b"\n", 0, at) + 1
    lines = [line.removesuffix(b"\r") for line in data[start:].split(b"\n")[:LINES] if not line.isascii()]
    strange = [line for line in lines if not _decodes(line, encoding)]
    fits = best(strange, encoding)
    if fits is None:
        return (f"it reads well in none of {', '.join(CANDIDATES)}; if you know its encoding, say which: "
                f"{{source: {label}, encoding: NAME}}.")
    line = strange[0].decode(fits, "replace").strip()
    shown = line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
    before = [line for line in data[:start].split(b"\n")[-LINES:] if not line.isascii()]
    if best([*before, *lines], encoding) == fits:
        return (f"it looks like {fits}, in which this line reads {shown!r}; if that is right, say so: "
                f"{{source: {label}, encoding: {fits}}}{'' if fits == 'utf-8' else ', or save the file as UTF-8'}.")
    return (f"in {fits} this line reads {shown!r}, but others are {encoding}: mend it, or leave such lines out by "
            "on_bad_row: skip.")


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _starts_a_character(data: bytes) -> bool:
    """Whether bytes are the beginning of a character of UTF-8, and no more."""
    return 0xC2 <= data[0] <= 0xF4 and all(byte & 0xC0 == 0x80 for byte in data[1:])
