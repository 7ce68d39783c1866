"""The embedding table in word2vec's text form: literal lines, every kind of tokenizer, the numbers to the bit."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import SMALL, stories

from llmkit.cli import main
from llmkit.data import tokenizer as tokenizers
from llmkit.exporting.formats.word2vec import escaped, spelled, spellings
from llmkit.recipe import registry


def saved(folder, family, kind, texts, size):
    import transformers

    trained = tokenizers.train(texts, kind, size)
    torch.manual_seed(2)
    head = {"bert": "AutoModelForMaskedLM", "gpt2": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM",
            "xlnet": "AutoModelForCausalLM"}[family]
    made = registry.find("backbones", family)
    config = made.config("tiny", SMALL[family], trained)
    model = getattr(transformers, head).from_config(config)
    model.save_pretrained(folder)
    trained.save_pretrained(folder)
    return model, trained


def read(path):
    """(words, vectors) as word2vec's own C program reads them: by white space."""
    lines = path.read_text(encoding="utf-8").split("\n")
    count, width = map(int, lines[0].split())
    rows = [line.split() for line in lines[1 : count + 1]]
    assert lines[count + 1 :] == [""]
    assert all(len(row) == width + 1 for row in rows)
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)


CASES = [("bert", "wordpiece", 200), ("gpt2", "bpe", 320), ("t5", "unigram", 220), ("xlnet", "unigram", 200)]


@pytest.mark.parametrize(("family", "kind", "size"), CASES, ids=[case[0] for case in CASES])
def test_every_word_has_its_row_of_the_table(family, kind, size, tmp_path, capsys):
    model, tokenizer = saved(tmp_path / "m", family, kind, [*stories(80), "北京 , , and."], size)
    assert main(["export", str(tmp_path / "m"), "--to", str(tmp_path / "out"), "--format", "word2vec", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    words, vectors = read(tmp_path / "out" / "vectors.txt")
    table = model.get_input_embeddings().weight.detach().numpy()
    assert done["words"] == len(words) == len(set(words))
    assert done["words"] + done["left_out"] == len(table)
    assert done["left_out"] >= len(set(tokenizer.all_special_ids))
    assert set(tokenizer.all_special_tokens).isdisjoint(words)
    sign = {"wordpiece": "", "bpe": "Ġ", "unigram": "▁"}[kind]
    token = next(token for token in sorted(tokenizer.get_vocab())
                 if token.startswith(sign) and token[len(sign) :].isascii() and token[len(sign) :].isalpha())
    row = table[tokenizer.get_vocab()[token]]
    assert np.array_equal(vectors[words.index(token[len(sign) :])], row)  # 32 bits come back as they were
    assert "KeyedVectors.load_word2vec_format" in (tmp_path / "out" / "README.md").read_text()


def test_the_file_is_the_one_that_the_format_asks_for(tmp_path):
    model, _ = saved(tmp_path / "m", "bert", "wordpiece", ["a b"] * 3, 7)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
        model.get_input_embeddings().weight[-1, :2] = torch.tensor([0.5, -1e-9])
    model.save_pretrained(tmp_path / "m")
    assert main(["export", str(tmp_path / "m"), "--to", str(tmp_path / "out"), "--format", "word2vec"]) == 0
    width = SMALL["bert"]["hidden_size"]
    rest = " 0" * (width - 2)
    assert (tmp_path / "out" / "vectors.txt").read_text() == (
        f"2 {width}\na 0 0{rest}\nb 0.5 -9.99999972e-10{rest}\n")


@pytest.mark.parametrize(("text", "apart", "word"), [
    (" king", True, "king"), ("king", True, "##king"), ("king", False, "king"), ("##ing", False, "##ing"),
    (" ,", True, "▁,"), (",", True, ","), (" ", True, "▁"), ("中", True, "中"), (" 中", True, "▁中"),
    ("\n", True, "\\n"), ("\u3000", False, "\\u3000"), ("a\xa0b", False, "a\\xa0b"), ("  ", True, "▁▁"),
    (" 北京", True, "▁北京"), ("é", True, "##é"), (" New York", True, "New▁York")])
def test_a_token_is_spelled_as_a_word(text, apart, word):
    assert spelled(text, apart) == word


def test_parts_of_characters_are_bytes_and_no_two_words_are_the_same():
    tokenizer = tokenizers.train(["北京 ##x ing"] * 3, "bpe", 300)
    ids = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    words = list(spellings(tokenizer, ids))
    assert len(set(words)) == len(words)
    assert any(word.startswith("<0xE") for word in words)
    assert not any(character.isspace() for word in words for character in word)
    assert escaped("a b\t") == "a▁b\\t"


@pytest.mark.skipif(find_spec("gensim") is None, reason="gensim isn't installed")
def test_gensim_reads_it(tmp_path):
    from gensim.models import KeyedVectors

    saved(tmp_path / "m", "gpt2", "bpe", stories(80), 320)
    assert main(["export", str(tmp_path / "m"), "--to", str(tmp_path / "out"), "--format", "word2vec"]) == 0
    vectors = KeyedVectors.load_word2vec_format(str(tmp_path / "out" / "vectors.txt"))
    words, rows = read(tmp_path / "out" / "vectors.txt")
    assert list(vectors.index_to_key) == words
    assert np.array_equal(vectors.vectors, rows)
    assert vectors.most_similar("the", topn=1)[0][0] in words
