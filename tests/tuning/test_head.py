import pytest
from promises import blank, trained

from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.tuning.head import Head

CLASSES = "AutoModelForSequenceClassification"


def test_a_new_head_trains_alone_with_its_pooler():
    assert trained(Head(), "bert", CLASSES, ("classifier", "bert.pooler.dense")) == [
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]
    assert trained(Head(), "gpt2", CLASSES, ("score",)) == ["score.weight"]
    assert trained(Head(), "t5", CLASSES, ("classification_head.dense", "classification_head.out_proj")) == [
        "classification_head.dense.weight", "classification_head.dense.bias",
        "classification_head.out_proj.weight", "classification_head.out_proj.bias"]


def test_where_no_head_is_new_the_old_one_trains_but_for_a_tied_table():
    assert trained(Head(), "bert", "AutoModelForMaskedLM") == [
        "cls.predictions.bias", "cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias"]
    assert trained(Head(), "bert", CLASSES) == [
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]
    assert trained(Head(), "gpt2", "AutoModelForCausalLM", tie_word_embeddings=False) == ["lm_head.weight"]


@pytest.mark.parametrize(("family", "head"), [
    ("gpt2", "AutoModelForCausalLM"), ("llama", "AutoModelForCausalLM"), ("t5", "AutoModelForSeq2SeqLM"),
    ("bart", "AutoModelForSeq2SeqLM")])
def test_a_head_that_is_the_table_of_embeddings_is_refused(family, head):
    model, setting = blank(family, head)
    with pytest.raises(RequestError, match=r"whose head is its table of embeddings\. Use layers, feed_forward"):
        Head().check_parts(lambda: model, setting)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(RequestError, match="this objective's model has none"):
        Head().check(registry.find("backbones", "bert"), "AutoModel")
