"""A text that its limit cuts: shown up to its last whole sentence, streamed or not, and said; JSON keeps it whole."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from served import letters

from llmkit.cli.generate import _cut
from llmkit.inference.generate import Result
from llmkit.inference.writing.completion import Completion
from llmkit.inference.writing.pieces import NEAR, UnfinishedSentence
from llmkit.inference.writing.text import WrittenText

LONG = "x" * NEAR


def written(text: str, room: int, ends: str = "", whole: bool = True) -> tuple[str, list[str]]:
    """(all that was streamed of a text with a token a byte, the pieces); `ends` is the token that ends it."""
    pieces: list[str] = []
    tokenizer = letters()
    made = WrittenText(tokenizer, (), tokenizer(ends)["input_ids"], room, pieces.append, whole_sentences=whole)
    for token in tokenizer(text)["input_ids"]:
        if not made.reason:
            made.add(token)
    return "".join(pieces), pieces


def test_what_is_streamed_ends_with_the_last_whole_sentence():
    text = "The cat ran. It saw Dr. Lee. It wanted to"
    assert written(text, len(text))[0] == "The cat ran. It saw Dr. Lee."
    assert written(text, len(text), whole=False)[0] == text
    chinese = "小猫跑了。它看见一只"
    assert written(chinese, len(chinese.encode()))[0] == "小猫跑了。"


def test_far_from_the_limit_each_character_is_told_at_once_and_near_it_each_sentence():
    _, pieces = written("One. Two. Th", 500)
    assert pieces == list("One. Two. Th")
    _, pieces = written("One. Two. Th", 12)
    assert pieces == ["One.", " Two."]


def test_a_text_that_ends_by_itself_is_told_to_its_end():
    assert written("One. Two and#", 50, ends="#")[0] == "One. Two and"


def test_a_sentence_that_was_told_in_part_stays_where_it_is_too_long_to_hold_back():
    text = f"One. Two {LONG}{LONG}"
    shown, _ = written(text, len(text))
    assert shown == text[: len(text) - NEAR - 1]


def test_what_was_told_is_never_taken_back():
    held = UnfinishedSentence()
    assert held.add("One. Two", 500) + held.end(cut=True) == "One. Two"


def completion(text: str, reason: str = "length", tokens: int = 9) -> Completion:
    return Completion(text, tokens, reason)


def test_json_has_the_whole_text_and_where_its_last_sentence_ends():
    cut = completion("One. Two")
    assert (cut.whole, cut.as_json()) == ("One.", {
        "text": "One. Two", "tokens": 9, "finish_reason": "length", "score": None, "cut": True, "whole_until": 4})
    for made in (completion("One. Two", "stop"), completion("One. "), completion("no end")):
        assert made.whole == made.text and "cut" not in made.as_json()


@pytest.mark.parametrize(("texts", "shown", "said"), [
    ([completion("One. Two")], ["One."],
     "the text was cut at 9 tokens, and a sentence that isn't whole is left out (--json keeps it); "
     "--max-new-tokens 18 lets the model write more"),
    ([completion("One.")], ["One."], "the text was cut at 9 tokens; --max-new-tokens 18 lets the model write more"),
    ([completion("no end")], ["no end"],
     "the text was cut at 9 tokens, within a sentence; --max-new-tokens 18 lets the model write more"),
    ([completion("One.", tokens=4)], ["One."],
     "the text was cut at 4 tokens; the model's context is full: a shorter prompt leaves it more"),
    ([completion("a", "stop"), completion("One. Two")], ["a", "One."],
     "1 of 2 texts were cut at 9 tokens, and a sentence that isn't whole is left out (--json keeps it); "
     "--max-new-tokens 18 lets the model write more"),
    ([completion("One. Two", "stop")], ["One. Two"], None),
], ids=range(6))
def test_it_is_said_that_a_text_was_cut_and_how_to_have_more(texts, shown, said):
    assert _cut(Result("p", "m", texts), shown, 9) == said


COMMANDS = [["generate", "Hello", "--model", "m"], ["chat", "--model", "m"], ["evaluate", "m", "--data", "x"],
            ["predict", "m", "x"], ["search", "x", "--in", ".", "--model", "m"], ["score", "Hello", "--model", "m"],
            ["export", "m", "--to", "x"]]


def test_what_goes_on_is_said_before_any_large_library_is_imported() -> None:
    program = ("import sys\nfrom llmkit.cli import main\nfrom llmkit.system import report\n"
               "from llmkit.system.errors import RequestError\n"
               "def opening(model):\n"
               "    print(model, [m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])\n"
               "    raise RequestError('as far as this')\n"
               f"report.opening = opening\nfor command in {COMMANDS!r}:\n    assert main(command) == 2")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, input="")
    assert done.stdout == "m []\n" * len(COMMANDS)


def words_of(make: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> str:
    make()
    return capsys.readouterr().err


def test_the_line_names_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    from llmkit.system import report

    report.to_stderr()
    assert words_of(lambda: report.opening("smollm2-135m-instruct"), capsys) == "opening smollm2-135m-instruct …\n"
