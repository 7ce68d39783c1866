"""Tokens that the tokenizer doesn't know are counted and said, with examples, from a hundredth on."""

import json
from pathlib import Path

import pytest
from conftest import stories
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llmkit.data import tokenizer as tokenizers
from llmkit.data.encoder import Unknown, alphabet, texts_in
from llmkit.data.sources import open_source
from llmkit.data.tokens import marked, tokenize
from llmkit.recipe import Source
from llmkit.system import cache

ZH = ["清晨的港口很安静，雾还没有来。", "面包师卖给钟表匠九个面包。"]
KINDS = [("wordpiece", "bert"), ("unigram", "t5"), ("characters", None), ("bpe", None)]


@pytest.fixture(scope="module", params=KINDS, ids=[kind for kind, _ in KINDS])
def tokenizer(request):
    kind, special = request.param
    return tokenizers.train(stories(80), kind, 300, None, special)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))


def seen(tokenizer, texts):
    unknown = Unknown(tokenizer)
    for text in texts:
        unknown.see(tokenizer(text, add_special_tokens=False)["input_ids"], [text])
    return unknown


def byte_level(tokenizer):
    return tokenizer.unk_token_id is None or tokenizer.unk_token_id == tokenizer.eos_token_id


def test_what_a_tokenizer_does_not_know_is_counted_with_examples(tokenizer):
    unknown = seen(tokenizer, ZH)
    if byte_level(tokenizer):  # bytes spell everything
        assert (unknown.count, unknown.note()) == (0, None)
        return
    ids = [i for text in ZH for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert unknown.count == ids.count(tokenizer.unk_token_id) > 0
    assert unknown.tokens == len(ids)
    assert unknown.examples[0].startswith("清") and len(unknown.examples) <= 5
    note = unknown.note()
    assert note is not None and note.startswith(f"{unknown.count} of {len(ids)} tokens (")
    assert f"are {tokenizer.unk_token}: the tokenizer doesn't know what stands there, such as '清" in note


def letters_alone() -> PreTrainedTokenizerFast:
    """A token for each small letter; what else a text has is left out without a word."""
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}, []))
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_characters_that_no_token_stands_for_are_counted_though_nothing_says_unknown():
    made = letters_alone()
    assert made("a猫b")["input_ids"] == [0, 1]
    unknown = seen(made, ["the 猫 cat", "Äpfel\n"])
    assert (unknown.count, unknown.tokens, unknown.examples) == (2, 12, ["猫", "Ä"])
    assert unknown.note() == (
        "2 characters beside 12 tokens are left out: the tokenizer has no token for them, such as '猫', 'Ä', and none "
        "for what it doesn't know. Use a model and a tokenizer of this language.")
    assert seen(made, ["the cat"]).note() is None
    assert alphabet(tokenizers.train(stories(20), "bpe", 300)) is None  # bytes spell everything


def test_what_no_token_stands_for_is_said_of_a_text():
    Path("a.txt").write_text("the cat\nTHE CAT 猫\n")
    for _ in ("anew", "before"):
        reader = open_source(Source("a.txt"))
        tokenize(reader, letters_alone())
        (note,) = reader.notes
        assert "7 characters beside " in note and "such as 'T', 'H', 'E', 'C', 'A'" in note


def test_text_that_it_knows_has_none(tokenizer):
    assert seen(tokenizer, stories(5)).note() is None


def test_below_a_hundredth_nothing_is_said():
    tokenizer = tokenizers.train(stories(80), "wordpiece", 300)
    known = tokenizer("the cat sat", add_special_tokens=False)["input_ids"]
    unknown = Unknown(tokenizer)
    unknown.see(known * 200, ["the cat sat"] * 200)
    unknown.see([tokenizer.unk_token_id], ["雾"])
    assert unknown.count == 1 and unknown.note() is None
    for _ in range(len(known) * 3):
        unknown.see([tokenizer.unk_token_id], ["雾"])
    assert unknown.note() is not None and unknown.examples == ["雾"]


def test_the_end_of_texts_that_gpt_2_calls_unknown_is_not():
    tokenizer = tokenizers.train(stories(80), "bpe", 300)
    tokenizer.unk_token = tokenizer.eos_token
    assert Unknown(tokenizer).id is None


@pytest.mark.parametrize("how", [{}, {"words": "tokenizer"}, {"sentences": "lines"}])
def test_they_are_said_of_text_that_is_tokenized_anew_or_was_before(how, monkeypatch):
    tokenizer = tokenizers.train(stories(80), "wordpiece", 300)
    Path("zh.txt").write_text("".join(f"{line}\n" for line in ZH * 20))

    def notes():
        reader = open_source(Source("zh.txt"))
        tokenize(marked([reader], **how)[0] if how else reader, tokenizer)
        return reader.notes

    first = notes()
    assert len(first) == 1 and first[0].startswith("zh.txt: ") and "are [UNK]: " in first[0] and "'清'" in first[0]
    assert notes() == first
    for about in (cache.root() / "tokens").rglob("about.json"):  # as earlier versions wrote it
        said = json.loads(about.read_text())
        del said["unknown"]
        about.write_text(json.dumps(said))
        (about.parent / ".sizes").unlink()
    assert notes() == [first[0].replace(first[0][first[0].index(", such as") : first[0].index(". All that")], "")]


def test_texts_of_a_row_are_found_in_its_lists_and_objects():
    assert list(texts_in({"text": "a", "n": 1, "choices": ["b", {"label": "c"}], "none": None})) == ["a", "b", "c"]
