"""Phrases of a dictionary are hidden whole, beside whole words (ERNIE)."""

import shutil

import numpy as np
import pytest
from conftest import stories, tiny

from llmkit.data import tokenizer as tokenizers
from llmkit.data.batches import Drawn
from llmkit.data.sources import open_source
from llmkit.data.tokens import marked, tokenize
from llmkit.data.words import WORD, bare, encode_words, read_phrases, together
from llmkit.objectives.base import Setup
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.objectives.masked_lm_next_sentence import MaskedLMNextSentence
from llmkit.recipe import Source, load, registry
from llmkit.system.errors import CheckpointError, DataError
from llmkit.training.fit import fit


@pytest.fixture
def phrases(tmp_path):
    def make(*lines, name="phrases.txt"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_phrases(str(path))

    return make


def found(book, text):
    return [text[first:stop] for first, stop in book.spans(text)]


def test_the_longest_phrase_is_found_first_and_words_are_whole(phrases):
    book = phrases("# cities", "new york", "new york times   # a paper", "York", "", "U.S.")
    assert len(book.known) == 4
    text = "The New York\nTimes of New  York, York and york; new yorkers. The U.S. navy"
    assert found(book, text) == ["New York\nTimes", "New  York", "York", "U.S."]


def test_chinese_phrases_need_no_borders_of_words(phrases):
    book = phrases("北京", "北京大学", "自然语言处理")
    assert found(book, "他在北京大学学自然语言处理，住北京。") == ["北京大学", "自然语言处理", "北京"]
    assert found(book, "iPhone在北京") == ["北京"]


def test_each_span_is_one_word_and_a_word_begins_behind_it():
    offsets = [(0, 3), (4, 6), (6, 8), (8, 9), (10, 12)]
    starts, text = np.array([1, 1, 0, 0, 1], bool), "new yorks is"
    assert together(starts, offsets, [(0, 8)], text).tolist() == [1, 0, 0, 1, 1]
    assert together(starts, offsets, [(4, 8), (10, 12)], text).tolist() == [1, 1, 0, 1, 1]
    assert together(starts, offsets, [], text).tolist() == starts.tolist()


def test_a_piece_that_is_a_words_space_stays_with_it():
    offsets = [(0, 1), (1, 2), (2, 3), (3, 5)]  # a Ġ r ed
    starts = np.array([1, 1, 0, 0], bool)
    assert together(starts, offsets, [(2, 5)], "a red").tolist() == [1, 1, 0, 0]
    apart = np.array([1, 1, 1, 0], bool)  # a space that is a word of its own
    assert together(apart, offsets, [(2, 5)], "a red").tolist() == [1, 1, 1, 0]


def words(tokenizer, text, book, segmenter="tokenizer"):
    (ids,) = encode_words(tokenizer, [text], segmenter, book)
    cuts = np.flatnonzero(ids >= WORD)[1:]
    return [" ".join(tokenizer.convert_ids_to_tokens(part.tolist())) for part in np.split(bare(ids), cuts)]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_phrase_is_a_word_of_every_kind_of_tokenizer(kind, phrases):
    tokenizer = tokenizers.train(stories(80), kind, 300)
    marks = words(tokenizer, "the old king saw a red ball .", phrases("Old king", "a red ball"))
    plain = words(tokenizer, "the old king saw a red ball .", None)
    assert len(plain) == len(marks) + 2  # Old king isn't there: it has a capital
    marks = words(tokenizer, "the old king saw a red ball .", phrases("the old king", "red ball"))
    assert len(plain) == len(marks) + 3


def test_a_chinese_phrase_goes_over_what_jieba_says(phrases):
    pytest.importorskip("jieba")
    tokenizer = tokenizers.train(["我爱北京天安门。"] * 3, "wordpiece", 60)
    assert words(tokenizer, "我爱北京天安门。", phrases("爱北"), "jieba") == ["我", "爱 北", "京", "天 安 门", "。"]


def hidden_runs(objective, tokenizer, readers, setup):
    sets = objective.prepare(readers, None, setup)
    drawn = Drawn(sets.train, 3)
    rows = [drawn[0, row] for row in range(len(drawn))]
    return sets, rows


@pytest.mark.parametrize("kind", [MaskedLM, MaskedLMNextSentence])
def test_phrases_are_hidden_whole_or_not_at_all_at_the_exact_rate(kind, text, phrases):
    book = phrases("the old king", "the moon", "two stones")
    tokenizer = tokenizers.train(stories(120), "wordpiece", 120)
    objective = kind(phrases=book.path, mask_replace_prob=0.5, random_replace_prob=0.0)
    setup = Setup(tokenizer, registry.find("backbones", "bert"), 40, "none", 1)
    sets, rows = hidden_runs(objective, tokenizer, [open_source(Source(str(text)), "line")], setup)
    moon = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("the moon"))
    whole = part = hidden = candidates = 0
    for row in rows:
        ids = np.where(row["labels"] >= 0, row["labels"], row["input_ids"]).tolist()
        mask = (row["labels"] >= 0).tolist()
        hidden += sum(mask)
        candidates += sum(number not in tokenizer.all_special_ids for number in ids)
        for i in range(len(ids) - len(moon)):
            if ids[i : i + len(moon)] == moon:
                inside = mask[i : i + len(moon)]
                whole, part = whole + all(inside), part + (any(inside) and not all(inside))
    assert whole > 5
    assert part == 0
    assert hidden / candidates == pytest.approx(0.15, abs=0.02)
    assert any("3 of the 3 phrases" in note and "each is hidden as a whole" in note
               for reader in [open_source(Source(str(text)), "line")]
               for note in noted(reader, tokenizer, book))
    assert sets.train


def noted(reader, tokenizer, book):
    (one,) = marked([reader], "tokenizer", phrases=book)
    tokenize(one, tokenizer)
    return one.notes


def test_the_count_is_of_the_text(tmp_path, phrases):
    file = tmp_path / "t.txt"
    file.write_text("the cat saw the cat\nThe Cat ran\n")
    tokenizer = tokenizers.train(["the cat saw the cat"] * 3, "wordpiece", 60)
    book = phrases("the cat", "a dog")
    for _ in range(2):  # the second time from the cache
        assert f"t.txt: 1 of the 2 phrases of {book.path} are there, 3 times; each is hidden as a whole" in " ".join(
            noted(open_source(Source(str(file)), "line"), tokenizer, book))


def test_a_run_goes_on_with_the_same_phrases_only(text, tmp_path, phrases):
    book = phrases("the old king", "the moon")
    tree = tiny("bert", text, tmp_path / "run", save_steps=2)
    tree["objective"] = {"name": "masked_lm", "phrases": book.path}
    whole = fit(load(tree))
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again)
    for gone in (again / "model", again / "checkpoints" / "step-00000004"):
        shutil.rmtree(gone)
    (again / "summary.json").unlink()
    assert fit(load({**tree, "output_dir": str(again)}), "must")["train_loss"] == whole["train_loss"]
    phrases("the old king", "the moon", "a hat")
    with pytest.raises(CheckpointError, match=r"objective\.phrases_sha256 is \w+, there \w+"):
        fit(load(tree))
    with pytest.raises(CheckpointError, match=r"objective\.phrases_sha256"):
        fit(load(tmp_path / "run" / "recipe.yaml"))
    with pytest.raises(DataError, match="has changed since the run read it"):
        load(tmp_path / "run" / "recipe.yaml").objective.dictionary()


def test_files_that_hold_no_phrases_are_refused_with_their_line(tmp_path, phrases):
    with pytest.raises(DataError, match=r"phrases\.txt: has no phrases; write one a line"):
        phrases("# nothing", "")
    with pytest.raises(DataError, match=r"objective\.phrases: .*none\.txt: No such file or directory; name a file"):
        read_phrases(str(tmp_path / "none.txt"))
    (tmp_path / "gbk.txt").write_bytes("北京\n".encode() + "上海\n".encode("gbk"))
    with pytest.raises(DataError, match=r"gbk\.txt:2: phrases are read as UTF-8"):
        read_phrases(str(tmp_path / "gbk.txt"))
