"""Control tokens that come about where a chat template puts together what is said: no word of a talk may become one.

A talk is read a second time with marks in the place of its signs. What the template itself writes is there then too;
what was put together of signs that somebody said isn't.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from llmkit.data.encoder import CUT, controls, encode_uncontrolled, unknown_id
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation")
"""Roles that stay as they are: a template compares them, and some have a token that is called like a role."""
WRITTEN = "_-.,:;!?'\"\\"
"""What words and JSON are written with: no signs."""
EDGE = re.compile(r'[^\s"\\]')
"""What begins or ends a text, however it is stripped or quoted."""


def check_joined(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], said: tuple[Any, Any],
    rendered: Callable[[Any, Any], str],
) -> None:
    """RequestError where what is said becomes control tokens only in the template or in the tokenizer's normalizer.

    ["<|im_", "start|>system"], joined; "<|IM_START|>" where letters become small. There are more of these tokens in
    the ids of the talk than in those of the talk with marks. `said` are messages and tools, `text` and `ids` are what
    they became, `rendered` makes such a text.
    """
    known = {written: number for written, number in controls(tokenizer, template=True).items()
             if number != unknown_id(tokenizer)}
    found = Counter(ids)
    if not any(found[number] for number in known.values()):
        return
    there = Counter(encode_uncontrolled(tokenizer, [_marked_text(tokenizer, text, said, known, rendered)])[0])
    if more := [written for written, number in known.items() if found[number] > there[number]]:
        raise RequestError(f"messages: what is said in them becomes the control token {more[0]!r} where the chat "
                           "template or the tokenizer puts it together; write it in another way.")


def _marked_text(
    tokenizer: PreTrainedTokenizerBase, text: str, said: tuple[Any, Any], known: Mapping[str, int],
    rendered: Callable[[Any, Any], str],
) -> str:
    """The talk as the template writes it, with marks: `text` again but for these, if the template can be had to.

    Some templates look for words in what is said, "</think>" or "<image>", and would write something else without
    them: what they look for then stays.
    """
    own, words = known.keys() - controls(tokenizer).keys(), _strings(tokenizer)
    all_said = {word for word in words if not any(map(_is_sign, word))}
    looked_for = {word for word in words if not any(one.casefold() in word.casefold() for one in known)}
    closest: str | None = None
    refused: RequestError | None = None
    for kept in (set[str](), looked_for):
        change = Marks(known, own, kept, all_said)
        try:
            closest = rendered(change(said[0]), change(said[1]))
        except RequestError as error:
            refused = error
            continue
        if _is_alike(text, closest):
            break
    if closest is None:
        raise RequestError("messages: the chat template takes them only with the signs that are in them (< | > [ ] …), "
                           "so whether these become control tokens can't be known; leave them out") from refused
    return re.sub(f"{CUT}+", CUT, closest)


def _is_alike(text: str, marked: str) -> bool:
    """Whether the template took the way that it took before."""
    return len(text) == len(marked) and all(new in (old, CUT) for old, new in zip(text, marked, strict=True))


def _strings(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The texts that stand in a template's code: in {% if '</think>' in message.content %} it is </think>."""
    from jinja2 import Environment

    template: Any = tokenizer.chat_template
    sources = template.values() if isinstance(template, dict) else [template or ""]
    lexer = Environment(autoescape=True).lexer
    return {str(token.value) for source in sources for token in lexer.tokenize(source)
            if token.type == "string" and str(token.value).strip()}


class Marks:
    """Puts marks in the place of all that a control token can be made of, one for each character.

    {"role": "user", "content": "a < b|c"}  ->  {"role": "user", "content": "# # b##"}, where # is CUT

    These are signs, and where a text begins and ends; so a token that a whole text is within is found too. A mark is no
    space, and has the length of what was there, so that templates that skip what is blank, or count, do as before.

    known   control tokens
    own     those that the assistant may say: what its thoughts and calls are between
    kept    texts that stay wherever they are; what stands beside them is marked
    words   texts that stay where they are all that is said
    """

    def __init__(
        self, known: Collection[str], own: Collection[str], kept: Collection[str], words: Collection[str]
    ) -> None:
        self.words = words
        self.kept, self.kept_by_assistant = _pattern(kept), _pattern({*kept, *own})
        self.letters = {letter for one in known if not any(map(_is_sign, one)) for letter in one.casefold()}
        """Of control tokens that have no sign."""

    def __call__(self, value: Any, assistant: bool = False) -> Any:
        """Messages or tools with marks in all their texts, and in names that have signs."""
        if isinstance(value, str):
            return value if value in self.words else self._text(value, assistant)
        if isinstance(value, Mapping):
            inner = partial(self, assistant=assistant or value.get("role") == "assistant")
            return {name.translate(_signs(name)): one if name == "role" and one in ROLES else inner(one)
                    for name, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self(one, assistant) for one in value)
        return value

    def _text(self, text: str, assistant: bool) -> str:
        kept, table = self.kept_by_assistant if assistant else self.kept, self._table(text)
        parts = [text] if kept is None else kept.split(text)  # text, kept, text, kept, …, text
        return "".join(part if i % 2 else _without_ends(part.translate(table)) for i, part in enumerate(parts))

    def _table(self, text: str) -> dict[int, str]:
        return _signs(text) | {ord(one): CUT for one in set(text) if one.casefold() in self.letters}


def _signs(text: str) -> dict[int, str]:
    """For str.translate: a mark for each sign. Names of fields have no others: a template asks for `content`."""
    return {ord(one): CUT for one in set(text) if _is_sign(one)}


def _pattern(texts: Collection[str]) -> re.Pattern[str] | None:
    """What finds texts in letters of any case, the longest first; None where there are none."""
    ranked = sorted(texts, key=lambda one: (-len(one), one))
    return re.compile(f"({'|'.join(map(re.escape, ranked))})", re.IGNORECASE) if ranked else None


def _without_ends(text: str) -> str:
    """A text with marks where it begins and ends: "so it is" -> "#o it i#"."""
    first = EDGE.search(text)
    if first is None:
        return text
    start, end = first.start(), len(text)
    while EDGE.match(text, end - 1) is None:
        end -= 1
    return f"{text[:start]}{CUT}{text[start + 1 : end - 1]}{CUT if end - 1 > start else ''}{text[end:]}"


def _is_sign(one: str) -> bool:
    """Whether a character, or what NFKC makes of it, is none that words are written with."""
    return not all(letter.isalnum() or letter.isspace() or letter in WRITTEN for letter in normalize("NFKC", one))
