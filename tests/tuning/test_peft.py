from pathlib import Path
from typing import Any

import pytest
import torch
from test_lora import CASES, IDS, batch, gpt2, reopened, train, unmoved

from llmkit.backbones.bert import Bert
from llmkit.backbones.electra import Electra
from llmkit.backbones.gpt2 import GPT2
from llmkit.backbones.llama import Llama
from llmkit.recipe.registry import find
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting
from llmkit.tuning.peft import Peft

TYPES: list[tuple[str, dict[str, Any], str]] = [
    ("HIRA", {}, "gpt2"), ("HIRA", {}, "t5"), ("LOHA", {"r": 4}, "bert-classes"), ("LOKR", {}, "llama"),
    ("BOFT", {"boft_block_size": 4}, "bert-mlm"), ("OFT", {}, "bert-classes"), ("LN_TUNING", {}, "llama"),
    ("RANDLORA", {}, "gpt2"), ("SHIRA", {"r": 2}, "bert-mlm"), ("VBLORA", {"vector_length": 16}, "bert-classes"),
    ("FOURIERFT", {"n_frequency": 50}, "llama"), ("OSF", {}, "llama"),
]


def test_its_file_name_is_its_name() -> None:
    assert find("tuning", "peft") is Peft


@pytest.mark.parametrize(("kind", "config", "case"), TYPES, ids=[f"{kind}-{case}" for kind, _, case in TYPES])
def test_a_type_trains_leaves_the_base_alone_and_merges(
    kind: str, config: dict[str, Any], case: str, tmp_path: Path
) -> None:
    make, setting, _ = CASES[case]
    method, before = Peft(kind, config), make().state_dict()
    method.check(setting.family, setting.head)
    torch.manual_seed(3)
    tuned: Any = method.apply(make(), setting)
    more = {"decoder_input_ids": IDS} if case == "t5" else {}
    if kind != "FOURIERFT":
        with torch.no_grad():
            start = make()(input_ids=IDS, **more).logits
            assert (tuned(input_ids=IDS, **more).logits - start).abs().max() <= 1e-6
    losses = train(tuned, batch(case))
    assert losses[-1] < losses[0]
    method.save(tuned, tmp_path)
    torch.manual_seed(7)
    assert reopened(tuned, case, tmp_path, 1e-5) == kind
    assert unmoved(tuned, before)


@pytest.mark.parametrize(("options", "why"), [
    ({"peft_type": "BOFF"}, r"peft has no type 'BOFF'\. Did you mean 'BOFT'"),
    ({"peft_type": "LORA"}, r"LORA is a method here: tuning: \{method: lora\}"),
    ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING is a method here: tuning: {method: prompt}"),
    ({"peft_type": "CPT"}, "CPT is a prompt, not a change of layers; use prompt, p_tuning or prefix"),
    ({"peft_type": "POLY"}, "doesn't train POLY: each of its rows needs a task's number. There is: ADAMSS"),
    ({"peft_type": "BOFT", "config": {"boft_blocksize": 4}},
     r"tuning.config.boft_blocksize: no such field of BOFTConfig\. Did you mean 'boft_block_size'"),
    ({"peft_type": "BOFT", "config": {"boft_block_size": 4, "boft_block_num": 2}}, "tuning.config: You can only"),
    ({"config": {"task_type": "SEQ_CLS"}}, "tuning.config.task_type: llmkit fills it in"),
    ({"config": {"target_modules": []}}, "nothing is named"),
    ({"peft_type": "ADAMSS", "config": {"use_asa": True}}, "leave it out, or use the method adalora"),
])
def test_what_peft_does_not_know_is_refused_with_the_nearest_name(options: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        Peft(**options).check(Bert, "AutoModelForMaskedLM")


def test_norms_that_peft_does_not_know_have_to_be_named() -> None:
    with pytest.raises(RequestError, match="peft knows no norms of electra; name them"):
        Peft("LN_TUNING").check(Electra, "AutoModelForMaskedLM")
    Peft("LN_TUNING", {"target_modules": ["LayerNorm"]}).check(Electra, "AutoModelForMaskedLM")
    Peft("LN_TUNING").check(Llama, "AutoModelForCausalLM")


def test_layers_that_a_type_can_not_change_are_refused_in_one_line() -> None:
    with pytest.raises(RequestError, match=r"peft can't tune GPT2LMHeadModel so: .*Conv1D"):
        Peft("LOHA").apply(gpt2(), Setting(GPT2, "AutoModelForCausalLM"))
    with pytest.raises(RequestError, match="OSF finds nothing to train in GPT2LMHeadModel"):
        Peft("OSF", {"target_modules": ["c_attn"]}).apply(gpt2(), Setting(GPT2, "AutoModelForCausalLM"))
