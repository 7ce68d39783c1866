"""Chinese: words are jieba's, characters are tokens, and a model learns from both."""

import json

import numpy as np
import pytest
from conftest import SMALL

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.data.tokens import marked, tokenize
from llmkit.data.words import WORD, bare
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.planning import inspect as inspection
from llmkit.recipe import Source
from llmkit.training.fit import fit

LINES = [
    "我爱北京天安门。", "我们学习自然语言处理。", "今天天气很好，我们去公园散步。", "老师在学校教学生写字。",
    "北京是中国的首都。", "学生们喜欢自然和音乐。", "天安门在北京的中心。", "他今天在公园学习语言。",
] * 4


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("chinese") / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def words_of(file, tokenizer, text):
    """Where jieba's words start and stop in a text's tokens, and these with their marks."""
    (reader,) = marked([open_source(Source(str(file)), "line")], "jieba")
    documents = tokenize(reader, tokenizer)
    number = LINES.index(text)
    ids = np.array(documents.ids[documents.starts[number] : documents.stops[number]])
    starts = np.flatnonzero(ids >= WORD)
    return ids, list(zip(starts.tolist(), [*starts.tolist()[1:], len(ids)], strict=True))


@pytest.mark.parametrize("kind", ["characters", "wordpiece"])
def test_a_word_of_jieba_is_hidden_whole_or_not_at_all(kind, file):
    pytest.importorskip("jieba")
    tokenizer = tokenizers.train(LINES, kind, 100, special="bert")
    ids, words = words_of(file, tokenizer, "我们学习自然语言处理。")
    shown = ["".join(tokenizer.convert_ids_to_tokens(bare(ids[start:stop]).tolist())) for start, stop in words]
    assert shown == ["我们", "学习", "自然语言", "处理", "。"]
    objective = MaskedLM(whole_word=True, segmenter="jieba", mlm_probability=0.4, mask_replace_prob=1,
                         random_replace_prob=0)
    seen = set()
    for seed in range(40):
        row = objective.draw(ids, np.random.default_rng(seed), tokenizer)
        hidden = (row["labels"] != -100)[1:-1]
        assert (row["input_ids"][1:-1][hidden] == tokenizer.mask_token_id).all()
        whole = [hidden[start:stop] for start, stop in words]
        assert all(part.all() or not part.any() for part in whole)
        seen |= {word for word, part in zip(shown, whole, strict=True) if part.all()}
    assert seen == set(shown)  # every word is hidden some time
    alone = MaskedLM(mlm_probability=0.4).draw(bare(ids), np.random.default_rng(0), tokenizer)["labels"][1:-1] != -100
    assert any(0 < alone[start:stop].sum() < stop - start for start, stop in words)  # without, words are torn


@pytest.mark.parametrize("kind", ["characters", "wordpiece"])
def test_a_model_learns_from_a_few_lines_of_chinese(kind, file, tmp_path):
    pytest.importorskip("jieba")
    asked = recipe.load({
        "backbone": {"family": "bert", "size": "tiny", "config": SMALL["bert"]},
        "tokenizer": {"train": {"vocab_size": 100, "kind": kind}},
        "data": {"train": str(file), "validation": [str(file)], "max_length": 24, "packing": "documents"},
        "objective": {"name": "masked_lm", "whole_word": True, "segmenter": "jieba"},
        "training": {"figures": False,
                     "max_steps": 40, "global_batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"},
        "output_dir": str(tmp_path / "run")})
    summary = fit(asked)
    assert summary["evaluation"]["loss"] < summary["evaluation_before"]["loss"] - 0.5
    tokenizer = tokenizers.load(tmp_path / "run" / "model")
    ids = tokenizer("我爱北京天安门。", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert len(ids) == 8
    vocabulary = json.loads((tmp_path / "run" / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    assert "北" in vocabulary["model"]["vocab"]


def test_a_row_of_chinese_can_be_looked_at(file, tmp_path):
    two = tmp_path / "two.txt"  # sentences a document
    two.write_text("".join(f"{line}{line}\n" for line in file.read_text().splitlines()))
    asked = recipe.load({
        "backbone": {"family": "bert", "size": "tiny", "config": SMALL["bert"]},
        "tokenizer": {"train": {"vocab_size": 100}}, "data": {"train": str(two), "max_length": 16, "packing": "none"},
        "objective": {"name": "next_sentence", "sentences": "punctuation"}, "output_dir": str(tmp_path / "run")})
    (row,) = inspection.inspect(asked, [0])["drawn"]
    assert row["fields"]["token_type_ids"][0] == 0 and row["fields"]["token_type_ids"][-1] == 1
