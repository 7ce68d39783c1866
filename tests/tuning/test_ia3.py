from pathlib import Path

import pytest
import torch
from conftest import SMALL
from test_lora import CASES, batch, bert, gpt2, llama, reopened, train
from transformers import AutoConfig, AutoModelForMaskedLM, BertForMaskedLM, PreTrainedModel

from llmkit.backbones.base import Family
from llmkit.backbones.bert import Bert
from llmkit.backbones.electra import Electra
from llmkit.backbones.gpt2 import GPT2
from llmkit.backbones.llama import Llama
from llmkit.backbones.modernbert import ModernBert
from llmkit.objectives.causal_lm import CausalLM
from llmkit.recipe import Training
from llmkit.recipe.registry import find
from llmkit.system.errors import RequestError
from llmkit.training.learner import Learner
from llmkit.training.optimizer import learned
from llmkit.tuning.base import Setting
from llmkit.tuning.ia3 import IA3, usual_layers


def random(family: type[Family]) -> PreTrainedModel:
    fields = {"vocab_size": 50, "num_hidden_layers": 2, "pad_token_id": 0, **SMALL[family.model_type]}
    model: PreTrainedModel = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family.model_type, **fields))
    return model.eval()


def test_its_file_name_is_its_name() -> None:
    assert find("tuning", "ia3") is IA3


@pytest.mark.parametrize("case", CASES)
def test_at_the_start_it_is_the_base_model(case: str) -> None:
    make, setting, _ = CASES[case]
    base, tuned = make(), IA3().apply(make(), setting)
    with torch.no_grad():
        assert torch.equal(base(**batch(case)).logits, tuned(**batch(case)).logits)


@pytest.mark.parametrize("case", CASES)
def test_it_trains_only_vectors_and_new_parts_and_peft_opens_what_it_saves(case: str, tmp_path: Path) -> None:
    make, setting, _ = CASES[case]
    method = IA3()
    tuned = method.apply(make(), setting)
    losses = train(tuned, batch(case))
    assert losses[-1] < losses[0]
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert all(".ia3_l." in name or ".modules_to_save." in name for name in trained)
    method.save(tuned, tmp_path)
    reopened(tuned, case, tmp_path)


def test_where_peft_has_no_choice_it_is_keys_values_and_what_the_last_feed_forward_layer_reads() -> None:
    ends = [f"electra.encoder.layer.{i}.output.dense" for i in (0, 1)]
    assert usual_layers(random(Electra), Electra) == (["key", "value", *ends], ends)
    ends = [f"model.layers.{i}.mlp.Wo" for i in (0, 1)]
    assert usual_layers(random(ModernBert), ModernBert) == (["Wqkv", *ends], ends)
    assert usual_layers(llama(), Llama) == (["k_proj", "v_proj", "down_proj"], ["down_proj"])


def test_vectors_of_named_feed_forward_layers_are_as_long_as_what_these_read() -> None:
    tuned = IA3(target_modules=["k_proj", "down_proj"]).apply(llama(), Setting(Llama, "AutoModelForCausalLM"))
    sizes = {name.split(".")[-3]: tuple(p.shape) for name, p in tuned.named_parameters() if p.requires_grad}
    assert sizes == {"k_proj": (16, 1), "down_proj": (1, 64)}


def test_its_vectors_do_not_decay() -> None:
    method = IA3()
    model = method.apply(gpt2(), Setting(GPT2, "AutoModelForCausalLM"))
    learner = Learner(model, CausalLM(), GPT2)
    found = learned(learner, Training(weight_decay=0.1, learning_rate=1.0), method)
    assert {one.weight_decay for one in found} == {0.0}


def test_what_can_not_be_is_refused_with_what_can() -> None:
    class Strange(Bert):
        model_type = "strange"

    with pytest.raises(RequestError, match="peft has no default for strange"):
        IA3().check(Strange, "AutoModelForMaskedLM")
    with pytest.raises(RequestError, match="some of the target_modules; name those too"):
        IA3(feedforward_modules=["output.dense"]).check(Bert, "AutoModelForMaskedLM")
    with pytest.raises(RequestError, match=r"'value' must be one of the target_modules \(key\)"):
        IA3(target_modules=["key"], feedforward_modules=["value"]).check(Bert, "AutoModelForMaskedLM")
    with pytest.raises(RequestError, match="has no all-linear"):
        IA3(target_modules="all-linear").check(Bert, "AutoModelForMaskedLM")
    with pytest.raises(RequestError, match=r"'kye'\. Did you mean 'key'"):
        IA3(target_modules=["kye"]).apply(bert(BertForMaskedLM), Setting(Bert, "AutoModelForMaskedLM"))
