import pytest
from promises import blank, trained

from llmkit.system.errors import RequestError
from llmkit.tuning.layer_norm import LayerNorm


def test_it_trains_gains_and_shifts_of_bert_and_a_new_head_whole():
    assert trained(LayerNorm(), "bert", "AutoModelForTokenClassification", ("classifier",), num_hidden_layers=1) == [
        "bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight",
        "bert.encoder.layer.0.attention.output.LayerNorm.bias",
        "bert.encoder.layer.0.output.LayerNorm.weight", "bert.encoder.layer.0.output.LayerNorm.bias",
        "classifier.weight", "classifier.bias"]


@pytest.mark.parametrize(("family", "head", "names"), [
    ("gpt2", "AutoModelForCausalLM", [
        "transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias", "transformer.h.0.ln_2.weight",
        "transformer.h.0.ln_2.bias", "transformer.ln_f.weight", "transformer.ln_f.bias"]),
    ("qwen3", "AutoModelForCausalLM", [
        "model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight",
        "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
        "model.norm.weight"]),
    ("t5", "AutoModelForSeq2SeqLM", [
        "encoder.block.0.layer.0.layer_norm.weight", "encoder.block.0.layer.1.layer_norm.weight",
        "encoder.final_layer_norm.weight", "decoder.block.0.layer.0.layer_norm.weight",
        "decoder.block.0.layer.1.layer_norm.weight", "decoder.block.0.layer.2.layer_norm.weight",
        "decoder.final_layer_norm.weight"]),
])
def test_it_trains_the_normalisations_of_other_families(family, head, names):
    depth = {"gpt2": {"n_layer": 1}, "qwen3": {"num_hidden_layers": 1}, "t5": {"num_layers": 1}}[family]
    assert trained(LayerNorm(), family, head, **depth) == names


def test_a_model_without_normalisations_is_refused():
    from torch import nn

    model, setting = blank("bert", "AutoModelForMaskedLM")
    for name, part in list(model.named_modules()):
        if isinstance(part, nn.LayerNorm):
            model.set_submodule(name, nn.Identity())
    with pytest.raises(RequestError, match="whose normalisations have no weights"):
        LayerNorm().check_parts(lambda: model, setting)
