"""Layer-wise learning rates: factors by name, and that the optimizer gets them."""

from pathlib import Path

import pytest
from conftest import tiny
from promises import blank

from llmkit import recipe
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit
from llmkit.tuning.full import Full

CLASSES = "AutoModelForSequenceClassification"


def rates(family, head, decay=0.5, new=(), **config):
    """The factor of every parameter, by its name."""
    model, setting = blank(family, head, new, **config)
    given = Full(layer_learning_rate_decay=decay).rates(model, setting)
    return {name: given.get(name, 1.0) for name, _ in model.named_parameters()}


def of(found, *starts):
    """The one factor of all parameters that start so, for each start."""
    out = []
    for start in starts:
        values = {rate for name, rate in found.items() if name.startswith(start)}
        assert len(values) == 1, (start, values)
        out += values
    return out


def test_each_layer_of_bert_has_half_the_rate_of_the_one_above():
    found = rates("bert", CLASSES, new=("classifier", "bert.pooler.dense"), num_hidden_layers=3)
    assert of(found, "classifier", "bert.pooler", "bert.encoder.layer.2", "bert.encoder.layer.1",
              "bert.encoder.layer.0", "bert.embeddings") == [1, 1, 1, 0.5, 0.25, 0.125]


def test_the_last_normalisation_of_gpt2_has_the_full_rate_and_its_tied_head_that_of_the_embeddings():
    found = rates("gpt2", "AutoModelForCausalLM", n_layer=3)
    assert of(found, "transformer.ln_f", "transformer.h.2", "transformer.h.1", "transformer.h.0", "transformer.wte",
              "transformer.wpe") == [1, 1, 0.5, 0.25, 0.125, 0.125]
    assert "lm_head.weight" not in found
    assert rates("gpt2", "AutoModelForCausalLM", tie_word_embeddings=False)["lm_head.weight"] == 1


def test_each_stack_of_t5_is_counted_from_its_own_top():
    found = rates("t5", "AutoModelForSeq2SeqLM", num_layers=3, num_decoder_layers=2)
    assert of(found, "decoder.final_layer_norm", "decoder.block.1", "decoder.block.0", "encoder.final_layer_norm",
              "encoder.block.2", "encoder.block.1", "encoder.block.0", "shared") == [1, 1, 0.5, 1, 1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(("family", "head", "lowest"), [
    ("bart", "AutoModelForSeq2SeqLM", [
        "model.shared.weight", "model.encoder.embed_positions.weight", "model.encoder.layernorm_embedding.weight",
        "model.encoder.layernorm_embedding.bias", "model.decoder.embed_positions.weight",
        "model.decoder.layernorm_embedding.weight", "model.decoder.layernorm_embedding.bias"]),
    ("deberta", CLASSES, [
        "deberta.embeddings.word_embeddings.weight", "deberta.embeddings.LayerNorm.weight",
        "deberta.embeddings.LayerNorm.bias", "deberta.encoder.rel_embeddings.weight",
        "deberta.encoder.LayerNorm.weight", "deberta.encoder.LayerNorm.bias"]),
    ("electra", CLASSES, [
        "electra.embeddings.word_embeddings.weight", "electra.embeddings.position_embeddings.weight",
        "electra.embeddings.token_type_embeddings.weight", "electra.embeddings.LayerNorm.weight",
        "electra.embeddings.LayerNorm.bias", "electra.embeddings_project.weight", "electra.embeddings_project.bias"]),
    ("xlnet", "AutoModelForCausalLM", ["transformer.mask_emb", "transformer.word_embedding.weight"]),
    ("llama", "AutoModelForQuestionAnswering", ["transformer.embed_tokens.weight"]),
    ("transformer", "AutoModelForSeq2SeqLM", [
        "model.shared.weight", "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"]),
    ("modernbert", "AutoModelForMaskedLM", ["model.embeddings.tok_embeddings.weight", "model.embeddings.norm.weight"]),
])
def test_embeddings_and_what_is_done_to_them_are_lowest(family, head, lowest):
    assert [name for name, rate in rates(family, head).items() if rate == 0.25] == lowest


def test_at_the_default_nothing_differs():
    model, setting = blank("bert", CLASSES)
    assert Full().rates(model, setting) == {}


def test_the_optimizer_has_a_group_for_each_rate_and_a_step_moves_each_layer_by_its_own(text: Path, tmp_path: Path):
    """Adam's first step moves a weight by its learning rate, whatever the gradient."""
    for name, decay in (("base", 1.0), ("run", 0.1)):
        tree = tiny("gpt2", text, tmp_path / name, still=True, max_steps=1, lr_scheduler_type="constant",
                    learning_rate=1e-2, weight_decay=0.0)
        tree["tuning"] = {"method": "full", "layer_learning_rate_decay": decay}
        if name == "run":
            tree["backbone"] = {"pretrained": str(tmp_path / "base")}
            del tree["tokenizer"]
        fit(recipe.load(tree))
    from safetensors.torch import load_file

    before, after = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("base", "run"))
    moved = {name: (after[name] - before[name]).abs().median().item() for name in (
        "transformer.h.1.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.weight", "transformer.wte.weight")}
    assert list(moved.values()) == pytest.approx([1e-2, 1e-3, 1e-4], rel=0.05)


def test_a_decay_where_layers_share_weights_or_are_not_known_is_refused():
    with pytest.raises(RequestError, match="albert, whose layers share their weights"):
        Full(layer_learning_rate_decay=0.8).check(registry.find("backbones", "albert"), CLASSES)
    with pytest.raises(RequestError, match="needs to know the layers"):
        Full(layer_learning_rate_decay=0.8).check(registry.find("backbones", "auto"), CLASSES)
    Full().check(registry.find("backbones", "albert"), CLASSES)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Full(layer_learning_rate_decay=1.5)


@pytest.mark.parametrize("method", ["bias", "layers", "lora"])
def test_an_objective_of_two_networks_takes_full_alone(method: str, text: Path, tmp_path: Path):
    with pytest.raises(RequestError, match="replaced_token trains two networks whole; it takes the method full"):
        recipe.load({**tiny("electra", text, tmp_path / "run"), "objective": "replaced_token", "tuning": method})


def test_of_two_networks_the_first_has_rates_by_layer(text: Path, tmp_path: Path):
    tree = {**tiny("electra", text, tmp_path / "run", max_steps=1), "objective": "replaced_token",
            "tuning": {"method": "full", "layer_learning_rate_decay": 0.5}}
    assert fit(recipe.load(tree))["status"] == "completed"
