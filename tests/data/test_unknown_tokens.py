"""Tokens that the tokenizer doesn't know are counted and said, with examples, from a hundredth on."""

import json
from pathlib import Path

import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data.encoder import Unknown, texts_in
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
    assert notes() == [first[0].replace(first[0][first[0].index(", such as") : first[0].index(". All that")], "")]


def test_texts_of_a_row_are_found_in_its_lists_and_objects():
    assert list(texts_in({"text": "a", "n": 1, "choices": ["b", {"label": "c"}], "none": None})) == ["a", "b", "c"]
