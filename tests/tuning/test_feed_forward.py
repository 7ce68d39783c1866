import re

import pytest
from promises import blank, feed_forward, trained

from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.tuning.feed_forward import FeedForward

CLASSES = "AutoModelForSequenceClassification"


def test_it_trains_the_feed_forward_parts_of_bert_and_not_the_output_of_its_attention():
    assert trained(FeedForward(), "bert", CLASSES, ("classifier", "bert.pooler.dense")) == [
        "bert.encoder.layer.0.intermediate.dense.weight", "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.bias",
        "bert.encoder.layer.0.output.LayerNorm.weight", "bert.encoder.layer.0.output.LayerNorm.bias",
        "bert.encoder.layer.1.intermediate.dense.weight", "bert.encoder.layer.1.intermediate.dense.bias",
        "bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.1.output.dense.bias",
        "bert.encoder.layer.1.output.LayerNorm.weight", "bert.encoder.layer.1.output.LayerNorm.bias",
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]


def test_it_trains_the_feed_forward_parts_of_gpt2():
    assert trained(FeedForward(), "gpt2", "AutoModelForCausalLM", n_layer=1) == [
        "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.bias",
        "transformer.h.0.mlp.c_proj.weight", "transformer.h.0.mlp.c_proj.bias"]


def test_it_trains_the_feed_forward_parts_of_both_stacks_of_t5():
    assert trained(FeedForward(), "t5", "AutoModelForSeq2SeqLM", num_layers=1) == [
        "encoder.block.0.layer.1.DenseReluDense.wi.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight",
        "decoder.block.0.layer.2.DenseReluDense.wi.weight", "decoder.block.0.layer.2.DenseReluDense.wo.weight"]


@pytest.mark.parametrize("family", [name for name in registry.names("backbones") if name != "auto"])
def test_in_every_class_of_every_family_it_trains_the_same(family):
    for head in registry.find("backbones", family).heads:
        model, _ = blank(family, head)
        expected = [name for name, _ in model.named_parameters() if re.search(feed_forward(family), f".{name}")]
        assert len(expected) >= 4
        assert trained(FeedForward(), family, head) == expected


def test_a_family_whose_layers_are_not_known_is_refused():
    with pytest.raises(RequestError, match=r"feed_forward needs to know the layers .* Use full, bias, layer_norm or"):
        FeedForward().check(registry.find("backbones", "auto"), "AutoModelForCausalLM")
