import pytest
from promises import blank, trained

from llmkit.system.errors import RequestError
from llmkit.tuning.bias import Bias


def test_it_trains_every_bias_of_bert_and_a_new_head_whole():
    assert trained(Bias(), "bert", "AutoModelForTokenClassification", ("classifier",), num_hidden_layers=1) == [
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.attention.self.query.bias", "bert.encoder.layer.0.attention.self.key.bias",
        "bert.encoder.layer.0.attention.self.value.bias", "bert.encoder.layer.0.attention.output.dense.bias",
        "bert.encoder.layer.0.attention.output.LayerNorm.bias", "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.0.output.LayerNorm.bias",
        "classifier.weight", "classifier.bias"]


def test_it_trains_every_bias_of_gpt2():
    assert trained(Bias(), "gpt2", "AutoModelForCausalLM", n_layer=1) == [
        "transformer.h.0.ln_1.bias", "transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_proj.bias",
        "transformer.h.0.ln_2.bias", "transformer.h.0.mlp.c_fc.bias", "transformer.h.0.mlp.c_proj.bias",
        "transformer.ln_f.bias"]


@pytest.mark.parametrize(("family", "head"), [
    ("t5", "AutoModelForSeq2SeqLM"), ("t5", "AutoModelForSequenceClassification"),
    ("t5", "AutoModelForQuestionAnswering"), ("llama", "AutoModelForCausalLM"),
    ("qwen3", "AutoModelForQuestionAnswering"), ("modernbert", "AutoModelForMaskedLM"),
    ("umt5", "AutoModelForTokenClassification")])
def test_a_model_without_biases_is_refused_though_its_head_has_some(family, head):
    model, setting = blank(family, head)
    with pytest.raises(RequestError, match=r"bias can't train this \w+, which has no biases\. Use layer_norm"):
        Bias().check_parts(lambda: model, setting)


def test_a_llama_that_was_given_biases_is_not():
    found = trained(Bias(), "llama", "AutoModelForCausalLM", attention_bias=True)
    assert found[:2] == ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.k_proj.bias"]
