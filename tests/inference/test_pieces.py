"""The pieces that a text comes in: whole characters, cleaned spaces, nothing of a stop string, at a linear cost."""

import random

import pytest
from served import letters
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmkit.data.encoder import text_of
from llmkit.inference.writing.pieces import Pieces
from llmkit.inference.writing.text import WrittenText

WORDS = [
    "[PAD]", "[END]", "don", "'", "t", "n", "s", ".", ",", "!", "the", "cat", "##s", "猫", "##é", "ve", "'s", "n't"]


def bert() -> PreTrainedTokenizerFast:
    """Words and pieces of words, whose spaces go where English has none."""
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", eos_token="[END]", clean_up_tokenization_spaces=True)


def ids(text: str, tokenizer: PreTrainedTokenizerFast | None = None) -> list[int]:
    return (tokenizer or letters())(text)["input_ids"]


def test_characters_come_whole():
    pieces = Pieces(letters())
    assert [pieces.add(token) for token in ids("a你b")] == ["a", "", "", "你", "b"]
    assert pieces.end() == ""
    cut = Pieces(letters())
    assert [cut.add(token) for token in ids("a你")[:-1]] + [cut.end()] == ["a", "", "", "\ufffd"]


def test_nothing_of_a_stop_string_is_told():
    pieces = Pieces(letters(), ["\nUser:", "END"])
    told = [pieces.add(token) for token in ids("Hi\nUs all. EN")]
    assert told == ["H", "i", "", "", "", "\nUs ", "a", "l", "l", ".", " ", "", ""]
    assert not pieces.stopped
    assert pieces.add(*ids("D")) == "" and pieces.stopped and pieces.end() == ""
    open_end = Pieces(letters(), ["END"])
    assert "".join(open_end.add(token) for token in ids("an EN")) == "an " and open_end.end() == "EN"


def test_a_stop_string_ends_the_text_though_the_token_that_brings_it_begins_another_character():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    both = letters().convert_ids_to_tokens(ids("E你"))[:2]
    inner = Tokenizer(models.BPE({one: i for i, one in enumerate([*alphabet, "".join(both)])}, [tuple(both)]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pieces = Pieces(PreTrainedTokenizerFast(tokenizer_object=inner), ["E"])
    told = [pieces.add(token) for token in (alphabet.index("a"), len(alphabet))]
    assert (told, pieces.stopped) == (["a", ""], True)


def test_spaces_that_a_tokenizer_takes_back_are_never_told():
    tokenizer = bert()
    pieces = Pieces(tokenizer)
    told = [pieces.add(token) for token in ids("the cat don ' t . the cat , the cats", tokenizer)]
    assert told == ["", "", "the", " cat", "", "", "", " don't.", "", " the", " cat,", ""]
    assert pieces.end() == " the cats"


def test_an_ideograph_is_told_at_once_and_no_space_beside_it():
    tokenizer = bert()
    pieces = Pieces(tokenizer)
    told = [pieces.add(token) for token in ids("猫 猫 the cat 猫 !", tokenizer)]
    assert told == ["猫", "猫", "", "", "the cat猫", ""]
    assert pieces.end() == "!"


def test_a_bytewise_tokenizer_that_takes_nothing_back_holds_nothing_back():
    tokenizer = letters()
    tokenizer.clean_up_tokenization_spaces = True  # as many say of themselves, without an effect
    pieces = Pieces(tokenizer)
    assert [pieces.add(token) for token in ids("a b .")] == ["a", " ", "b", " ", "."]


@pytest.mark.parametrize("tokenizer", [letters(), bert()], ids=["bytes", "words"])
@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_tokens_add_up_to_the_whole_text(tokenizer, seed):
    chance = random.Random(seed)
    row = [chance.randrange(len(tokenizer)) for _ in range(120)]
    pieces = Pieces(tokenizer)
    told = [*map(pieces.add, row), pieces.end()]
    assert "".join(told) == text_of(tokenizer, row)
    assert pieces.lengths == [len(text_of(tokenizer, row[:i + 1])) for i in range(120)]


@pytest.mark.parametrize(("tokenizer", "text"), [
    (letters(), "the cat sat on a mat, 你好 "), (bert(), "the cat don ' t . "), (letters(), "\xff"),
], ids=["bytes", "words", "half characters"])
def test_a_long_text_decodes_so_many_tokens_for_each_as_a_short_one(monkeypatch, tokenizer, text):
    unit = ids(text, tokenizer)[:1] if text == "\xff" else ids(text, tokenizer)  # half of ÿ is no character
    decode, cost = tokenizer.decode, []
    monkeypatch.setattr(tokenizer, "decode", lambda row, **options: (cost.append(len(row)), decode(row, **options))[1])

    def decoded(length: int) -> int:
        cost.clear()
        pieces = Pieces(tokenizer, ["nowhere"])
        for i in range(length):
            pieces.add(unit[i % len(unit)])
        return sum(cost)

    short, long = decoded(500), decoded(2000)
    assert long < 4.2 * short
    assert long < 2000 * 40


def spaced() -> PreTrainedTokenizerFast:
    """Words that bring their space along, as SentencePiece writes them, and one that has none."""
    words = ["▁once", "▁upon", "▁a", "▁time", "s", "<s>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


@pytest.mark.parametrize(("prompt", "text"), [
    ([5, 0], " upon a times"), ([0], " upon a times"), ([3, 4, 3, 4, 3, 4], " upon a times"),
    ([], "upon a times"), ([5], "upon a times")])
def test_a_text_that_goes_on_begins_with_the_space_of_its_first_word(prompt: list[int], text: str) -> None:
    tokenizer = spaced()
    if prompt not in ([], [5]):
        assert tokenizer.decode([*prompt, 1, 2, 3, 4], skip_special_tokens=True).endswith(text)
    sent: list[str] = []
    one = WrittenText(tokenizer, (), set(), 9, sent.append, after=prompt)
    for token in (1, 2, 3, 4):
        one.add(token, -1.0)
    one.close("length")
    made = one.completion(True)
    assert made.text == "".join(sent) == text
    assert made.logprobs is not None
    starts = [0, *(i for i, letter in enumerate(text) if i and (letter == " " or i == len(text) - 1))]
    assert [each.offset for each in made.logprobs] == starts


def test_a_stop_string_may_begin_with_the_first_words_space() -> None:
    one = WrittenText(spaced(), (" upon",), set(), 9, after=[0])
    one.add(1)
    assert one.reason == "stop" and one.completion(False).text == ""
    assert WrittenText(spaced(), (" upon",), set(), 9, after=[0]).ends_in([0, 1], 1)
    assert not WrittenText(spaced(), (" upon",), set(), 9).ends_in([0, 1], 1)
    assert not WrittenText(spaced(), ("once",), set(), 9, after=[0]).ends_in([0, 1], 1)  # that is the prompt's


def test_words_of_wordpiece_begin_without_a_space() -> None:
    one = WrittenText(bert(), (), set(), 9, after=[10])
    one.add(11)
    assert one.completion(False).text == "cat"
