"""Summarization: long texts are cut to make room, what is written becomes ROUGE."""


import pytest
from conftest import stories

from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.base import Setup
from llmkit.recipe import registry
from llmkit.system.errors import DataError
from llmkit.tasks.summarization import Summarization, lead, rouge, sentences


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train([*stories(80), "TL;DR: Sum up"], "bpe", 300)


def prepared(reader, tokenizer, family="gpt2", length=64, **options):
    setup = Setup(tokenizer, registry.find("backbones", family), length, "none", seed=0)
    sets = Summarization(**options).prepare([reader], None, setup)
    return sets.train[0].features, sets.notes


ROW = {"text": "the cat saw a hat", "summary": "a cat"}
LONG = {"text": " ".join(["the cat saw a hat ."] * 12), "summary": "a cat saw a hat"}


@pytest.mark.parametrize("columns", [
    ("text", "summary"), ("document", "summary"), ("dialogue", "summary"), ("article", "highlights"),
    ("source", "target")])
def test_columns_go_by_many_names(write, columns):
    rows = Summarization().read(write({"id": 1, **dict(zip(columns, ROW.values()))}))
    assert [row for row, _ in rows] == [ROW]


@pytest.mark.parametrize(("row", "message"), [
    ({"text": "a", "summary": ""}, "the field 'summary' is empty"),
    ({"text": ["a"], "summary": "b"}, r"the field 'text' is no text: \['a'\]"),
])
def test_a_row_without_its_field_is_told_with_its_line(write, row, message):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {message}"):
        Summarization().read(write(ROW, row))


def test_a_decoder_reads_the_text_and_a_heading(write, bpe):
    (features,), _ = prepared(write(ROW), bpe)
    assert bpe.decode(features["input_ids"]) == "the cat saw a hat\n\nTL;DR:\na cat"
    assert bpe.decode([label for label in features["labels"] if label != -100]) == "a cat" + bpe.eos_token
    (features,), _ = prepared(write(ROW), bpe, template="Sum up: {text} ")
    assert bpe.decode(features["input_ids"]) == "Sum up: the cat saw a hat a cat"


def test_a_long_text_is_cut_and_its_template_and_answer_stay(write, bpe):
    whole, _ = prepared(write(LONG), bpe, length=500)
    features, notes = prepared(write(LONG), bpe, length=40, max_new_tokens=12)
    text = bpe.decode(features[0]["input_ids"])
    assert text.endswith("\n\nTL;DR:\na cat saw a hat")
    assert LONG["text"].startswith(text.partition("\n")[0])
    asked = int((features[0]["labels"] == -100).sum()) + 1
    assert 28 - 3 <= asked <= 28
    lost = len(whole[0]["input_ids"]) - len(features[0]["input_ids"])
    assert f"1 row is longer than 40 tokens and was cut ({lost} tokens left out)" in notes


def test_an_encoder_cuts_the_text_inside_its_template(write, bpe):
    features, _ = prepared(write(LONG), bpe, "bart", 20, template="Sum up: {text} TL;DR:")
    text = bpe.decode(features[0]["input_ids"])
    assert text.startswith("Sum up: the cat")
    assert text.endswith("TL;DR:" + bpe.eos_token)
    assert len(features[0]["input_ids"]) <= 20


def test_a_template_that_leaves_no_room_is_told_with_the_row(write, bpe):
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the template leaves no room for the text"):
        prepared(write(LONG), bpe, length=8)


# ---- figures ----------------------------------------------------------------------------------------------------


def test_rouge_by_hand():
    # of 3 and 4 words 2 are shared: precision 2/3, recall 1/2; of 2 and 3 pairs one
    found = rouge(["the cat ran"], ["the cat sat down"])
    assert found == {"rouge1": pytest.approx(4 / 7), "rouge2": pytest.approx(2 / 5), "rougeL": pytest.approx(4 / 7),
                     "rougeLsum": pytest.approx(4 / 7)}


def test_rouge_is_the_librarys_for_english():
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    one, other = "A dog's life: 2_3 cats! He ran.", "The dog ran. He's a cat, 2 dogs."
    theirs = RougeScorer(names).score("The dog ran.\nHe's a cat, 2 dogs.", "A dog's life: 2_3 cats!\nHe ran.")
    assert rouge([one], [other]) == {name: pytest.approx(theirs[name].fmeasure) for name in names}


def test_chinese_counts_by_the_character():
    assert rouge(["我爱猫"], ["我爱狗"])["rouge1"] == pytest.approx(2 / 3)  # nothing for the library's own tokenizer
    assert rouge(["我爱猫"], ["我爱狗"])["rouge2"] == pytest.approx(1 / 2)


def test_the_floor_is_the_first_three_sentences():
    text = "One cat. Two dogs! Is it so? The rest."
    assert sentences(text) == ["One cat.", "Two dogs!", "Is it so?", "The rest."]
    assert lead("一。二！三？四。", 3) == "一。 二！ 三？"
    floors = Summarization().floors([], [{"text": text, "summary": "One cat. Two dogs! Is it so?"}])
    assert floors["the first three sentences"]["rougeLsum"] == 1.0


def test_metrics_have_rouge_beside_the_loss():
    figures = Summarization().metrics({"loss": 0.0}, [({"text": "a cat"}, ROW), ({"text": ""}, ROW)])
    assert figures == {"loss": 0.0, "perplexity": 1.0, "rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5, "rougeLsum": 0.5}
