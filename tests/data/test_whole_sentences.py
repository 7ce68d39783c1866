"""Where a text that was cut may end: at a sentence's end, in any script, and not at every full stop."""

import pytest

from llmkit.data.sentences import sentence_ends, whole_until


@pytest.mark.parametrize(("whole", "rest"), [
    ("The cat ran.", " It was"),
    ('"Who are you?" asked Dr. Lee. "I am Tom."', " The cat s"),
    ("She met J. R. Smith, e.g. at 3 p.m. in No. 5.", " He"),
    ("It cost 3.14 dollars at example.com.", " Then"),
    ("What? No!", " Yes... and he w"),
    ("He paid.", " The price was 3."),  # which may become 3.14
    ("He ran (to Mr. Fox).", " Then Dr."),
    ("*He ran.*", " *She"),
    ("小猫说：“你好。”", "它又"),
    ("今天下雨了！真的？！", "没人"),
    ("他来了。", "他想……也许"),
    ("「すごい！」と言った。", "そして"),
    ("Он ушёл.", " Потом"),
    ("هل هذا قط؟", " نعم"),
    ("यह बिल्ली है।", " वह"),
    ("Things to buy:\n- eggs\n- milk", "\n- bre"),
    ("1. Eggs\n2. Milk", "\n3."),
    ("She ran!", "\n\n**Chapter 2**\n\nThe ca"),
], ids=range(18))
def test_a_text_is_cut_behind_its_last_whole_sentence(whole, rest):
    assert (whole + rest)[: whole_until(whole + rest)] == whole


@pytest.mark.parametrize("text", [
    "no end yet", "", "The cat ran.", "The cat ran. \n", "三只猫", "Here it is.\n```python\nprint(1)",
    "Write it so.\n\ndef cat(name):\n    print(na", "Do this. \n    x = 1", "Mr. and Mrs. Smith and Dr.",
], ids=range(9))
def test_a_text_without_a_sentence_or_that_goes_on_with_code_stays_whole(text):
    assert whole_until(text) == len(text) or not text[whole_until(text):].strip()


def test_an_end_is_certain_only_once_it_is_known_what_follows():
    def certain(text: str) -> list[int]:
        return list(sentence_ends(text, last=False))

    assert [certain(text) for text in ("It is 3.", "It is 3.1", "It ran.", "It ran. ", "It ran. T", "It ran.\n")] == [
        [], [], [], [], [7], [7]]
    assert [certain(text) for text in ("他来了。", "他来了。”", "他来了。”他")] == [[], [], [5]]
    assert [certain(text) for text in ('"Why?"', '"Why?" h', '"Why?" He')] == [[], [], [6]]
