"""Tokenizers in the layouts that people have, and text from ids."""

import json
import logging
from pathlib import Path

import pytest
from transformers import BertTokenizer, GPT2Tokenizer

from llmkit.data.encoder import Encoder, certain, joined, text_of
from llmkit.data.tokenizer_files import load, rows_for
from llmkit.system.errors import CheckpointError

CHINESE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "今", "天", "好", "，", "。", "a", "##b", "the", "cat", "."]
BPE = {"<|endoftext|>": 0, "h": 1, "i": 2, "Ġ": 3, "hi": 4, "Ġhi": 5}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("llmkit"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("llmkit"), "propagate", True)
    caplog.set_level("INFO", logger="llmkit")
    return caplog


def words(place: Path, tokens: list[str] = CHINESE) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return place


def ids(place: Path, text: str = "今天ab") -> list[int]:
    return list(load(place)(text)["input_ids"])


def test_a_saved_tokenizer_needs_no_model(tmp_path):
    BertTokenizer(vocab=str(words(tmp_path / "vocab.txt"))).save_pretrained(tmp_path / "saved")
    assert ids(tmp_path / "saved") == ids(tmp_path / "saved" / "tokenizer.json") == [2, 5, 6, 10, 11, 3]


def test_a_vocabulary_alone_is_berts_and_says_how_it_reads_case(tmp_path, said):
    assert ids(words(tmp_path / "vocab.txt").parent, "今天AB") == [2, 5, 6, 10, 11, 3]
    assert said.messages == ["tokenizer: no tokenizer_config.json says what it is: its vocab.txt is read as BERT's; it "
                             "has no capital letters, so text is lower-cased"]


def test_capitals_in_a_vocabulary_keep_the_case_of_text(tmp_path, said):
    tokens = [*CHINESE, *map(chr, range(ord("A"), ord("Z") + 1))]
    assert ids(words(tmp_path / "vocab.txt", tokens).parent, "A a") == [2, 15, 10, 3]
    assert "it has capital letters, so text keeps its case" in said.text


def test_what_a_settings_file_says_of_case_goes_before_what_is_concluded(tmp_path, said):
    words(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert ids(tmp_path, "天A") == [2, 6, 1, 3]
    assert said.messages == []


@pytest.mark.parametrize("kind", ["albert", "roberta", "t5", "gpt2", "bart", "electra"])
def test_a_vocabulary_of_berts_is_berts_whatever_the_model(kind, tmp_path):
    words(tmp_path / "vocab.txt")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert ids(tmp_path) == [2, 5, 6, 10, 11, 3]


@pytest.mark.parametrize("name", ["vocab.txt", "google_zh_vocab.txt", "words.txt"])
def test_one_file_is_a_tokenizer_whatever_its_name(name, tmp_path):
    assert ids(words(tmp_path / name)) == [2, 5, 6, 10, 11, 3]


def test_a_tokenizer_json_of_another_name_has_roles_by_its_tokens_names(tmp_path, said):
    made = BertTokenizer(vocab=str(words(tmp_path / "vocab.txt")))
    made.backend_tokenizer.save(str(tmp_path / "mine.json"))
    tokenizer = load(tmp_path / "mine.json")
    assert (tokenizer.mask_token, tokenizer.cls_token_id, tokenizer.eos_token) == ("[MASK]", 2, None)
    assert "by their names: pad [PAD], unk [UNK], cls [CLS], sep [SEP], mask [MASK]" in said.text


def test_byte_pairs_alone_are_gpt2s_and_robertas_by_their_mask(tmp_path):
    roberta = {"<s>": 6, "<pad>": 7, "</s>": 8, "<mask>": 9, "<unk>": 10, **BPE}
    for name, tokens in (("gpt2", BPE), ("roberta", roberta)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(json.dumps(tokens))
        (tmp_path / name / "merges.txt").write_text("#version: 0.2\nh i\nĠ hi\n")
    assert ids(tmp_path / "gpt2", "hi hi") == [4, 5]
    assert isinstance(load(tmp_path / "gpt2" / "vocab.json"), GPT2Tokenizer)
    assert ids(tmp_path / "roberta", "hi hi") == [6, 4, 5, 8]


def test_what_is_no_tokenizer_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="there is no tokenizer here"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"config.json: is no tokenizer's file. Such a file is a tokenizer.json"):
        load(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"vocab.txt: isn't BERT's: it has no line \[UNK\]"):
        load(words(tmp_path / "v" / "vocab.txt", ["a", "b"]))
    (tmp_path / "bpe").mkdir()
    (tmp_path / "bpe" / "vocab.json").write_text(json.dumps(BPE))
    with pytest.raises(CheckpointError, match=r"merges.txt is missing beside it"):
        load(tmp_path / "bpe")


def test_ids_with_holes_need_rows_up_to_the_largest(tmp_path, said):
    tokenizer = load(words(tmp_path / "vocab.txt", [*CHINESE[:7], "今", "今", *CHINESE[7:]]).parent)
    assert (len(tokenizer), rows_for(tokenizer)) == (15, 17)
    assert "2 of its ids stand for no token (a line twice in its vocabulary?): 15 tokens, 17 ids" in said.text
    assert Encoder(tokenizer)(["今 cat"])[0].tolist() == [8, 15]


def test_sentinels_of_uer_are_special(tmp_path):
    tokens = [*CHINESE, *(f"extra{i}" for i in range(100))]
    tokenizer = load(words(tmp_path / "vocab.txt", tokens).parent)
    assert tokenizer("今extra1天", add_special_tokens=False)["input_ids"] == [5, 16, 6]
    assert tokenizer.decode([5, 16, 6], skip_special_tokens=True) == "今 天"


@pytest.mark.parametrize(("text", "means"), [
    ("今 天 好", "今天好"), ("今 天 ， the cat 好 。", "今天，the cat好。"), ("the cat sat .", "the cat sat ."),
    ("2024 年 5 月", "2024年5月"), ("「 今 」 ok", "「今」ok"), ("한국 사람", "한국 사람"), ("今\n天", "今\n天"),
    ("ａ ｂ", "ａｂ"), ("𠀀 今", "𠀀今"), ("今　天", "今　天")])
def test_no_space_stands_beside_an_ideograph(text, means):
    assert joined(text) == means


def test_only_what_wordpiece_writes_loses_spaces(tmp_path):
    bert = load(words(tmp_path / "vocab.txt").parent)
    assert text_of(bert, [2, 5, 6, 8, 12, 13, 7, 9, 3]) == "今天，the cat好。"
    assert text_of(bert, [12, 13, 10, 11, 14]) == bert.decode([12, 13, 10, 11, 14])
    pairs = GPT2Tokenizer(vocab={**BPE, "ä": 6, "»": 7, "Ĭ": 8}, merges=[("h", "i"), ("Ġ", "hi")])
    assert text_of(pairs, [6, 7, 8, 5, 3, 6, 7, 8]) == "今 hi 今"


@pytest.mark.parametrize(("text", "sure"), [
    ("it is n", "it"), ("今天", "今天"), ("今天 it is", "今天"), ("今天it is n", "今天it"), ("it", "")])
def test_what_no_later_token_changes_is_told_at_once(text, sure):
    assert certain(text, BertTokenizer()) == sure
