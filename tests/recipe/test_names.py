"""What people call things elsewhere, and paths of their own: neither leads to something else here."""

import logging
from pathlib import Path

import pytest

from llmkit import recipe
from llmkit.recipe import registry
from llmkit.recipe.aliases import ALIASES, ELSEWHERE, PAGE
from llmkit.system.errors import RequestError, nearest, plain


@pytest.mark.parametrize(("kind", "name", "meant"), [
    ("tuning", "prefix-tuning", "'prefix'"), ("tuning", "prompt tuning", "'prompt'"), ("tuning", "LoRA", "'lora'"),
    ("tuning", "bitfit", "'bias'"), ("tuning", "layer-wise", "'layers'"), ("tuning", "P-Tuning v2", "'prefix'"),
    ("tuning", "p-tuning", "'p_tuning'"), ("tuning", "Prompt_Tuning", "'prompt'"), ("tuning", "FREEZE", "'layers'"),
    ("tuning", "linear probing", "'head'"), ("tuning", "(IA)³", "'ia3'"),
    ("tuning", "DoRA", "'lora', with use_dora: true"),
    ("tuning", "full fine-tuning", "'full'"), ("tuning", "LoHa", "'peft', with peft_type: LOHA"),
    ("tuning", "feedforward", "'feed_forward'"), ("tuning", "ＬｏＲＡ", "'lora'"), ("tuning", "prefx", "'prefix'"),
    ("tasks", "NER", "'tagging'"), ("tasks", "token-classification", "'tagging'"), ("tasks", "SFT", "'instruction'"),
    ("tasks", "dpo", "'preference'"), ("tasks", "summarisation", "'summarization'"),
    ("tasks", "QA", "'question_answering'"),
    ("tasks", "seq_cls", "'classification'"), ("tasks", "Multiple-Choice", "'multiple_choice'"),
    ("objectives", "MLM", "'masked_lm'"), ("objectives", "masked language modeling", "'masked_lm'"),
    ("objectives", "nsp", "'next_sentence'"), ("objectives", "causal-LM", "'causal_lm'"),
    ("objectives", "clm", "'causal_lm'"), ("objectives", "t5", "'span_corruption'"),
    ("backbones", "BERT", "'bert'"), ("backbones", "GPT-2", "'gpt2'"), ("backbones", "bert-base-uncased", "'bert'"),
    ("backbones", "qwen2.5", "'qwen3'"), ("backbones", "distilbert", "'auto'"), ("backbones", "T5-v1.1", "'t5'"),
    ("prompting", "few-shot", "'example'"), ("prompting", "Back-translation", "'reverse'"),
])
def test_what_others_call_it_leads_to_its_name_here(kind: str, name: str, meant: str) -> None:
    with pytest.raises(RequestError) as error:
        registry.find(kind, name)
    assert str(error.value) == f"no {registry.KINDS[kind]} is called {name!r}. Did you mean {meant}?"


@pytest.mark.parametrize("kind", ALIASES)
def test_every_alias_leads_to_a_plug_in_that_is_there(kind: str) -> None:
    assert set(ALIASES) == set(registry.KINDS)
    names = registry.names(kind)
    assert {leads.partition(" ")[0] for leads in ALIASES[kind].values()} <= set(names)
    assert not set(ALIASES[kind]) & set(names)  # what is a name already needs no other


@pytest.mark.parametrize(("settings", "field", "goes"), [
    ("objective={name: ppo}", "no objective is called 'ppo'. Reinforcement learning isn't done here,", "/docs/trl ("),
    ("objective={name: GRPO}", "no objective is called 'GRPO'. Reinforcement", "`task: preference`: DPO and its kin"),
    ("objective={name: rlhf}", "no objective is called 'rlhf'. Reinforcement", "/docs/trl ("),
    ("objective={name: image-to-text}", "'image-to-text'. Only text is read", "/docs/transformers ("),
    ("backbone.family=whisper", "no backbone family is called 'whisper'. Only text", "/docs/transformers ("),
    ("backbone.family=qwen2.5-vl", "'qwen2.5-vl'. Only text is read", "/docs/transformers ("),
    ("training.tensor_parallel_size=2", "tensor_parallel_size: no such field. Batches,", "/NVIDIA/Megatron-LM, "),
    ("training.pipeline_parallel_size=2", "no such field. Batches, weights and optimizers are split", "torchtitan ("),
])
def test_what_is_not_done_here_leads_to_who_does_it(settings: str, field: str, goes: str) -> None:
    with pytest.raises(RequestError) as error:
        recipe.load("bert_mlm", [settings])
    assert field in str(error.value) and goes in str(error.value)
    assert f"({PAGE})." in str(error.value)


@pytest.mark.parametrize("name", ["rlhf", "reward model", "image_classification", "ASR", "visual question answering"])
def test_a_task_that_is_not_done_here_leads_to_who_does_it(name: str) -> None:
    with pytest.raises(RequestError, match=r"no task is called .* Use TRL|no task is called .* Only text is read"):
        registry.find("tasks", name)


def test_the_page_of_limits_has_every_place_to_go() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8")
    for said in set(ELSEWHERE.values()):
        for address in (word.rstrip(",") for word in said.split() if word.startswith("https://")):
            assert address in page
    taken = {name for kind in registry.KINDS for name in (*ALIASES[kind], *map(plain, registry.names(kind)))}
    assert not taken & set(ELSEWHERE)


def test_the_nearest_name_is_found_whatever_its_case_and_hyphens() -> None:
    assert nearest("Learning-Rate", ["seed", "learning_rate"]) == " Did you mean 'learning_rate'?"
    assert nearest("MAX_STEP", ["seed", "max_steps"]) == " Did you mean 'max_steps'?"
    assert nearest("SmolLM2 135M instruct", ["smollm2-135m-instruct"]) == " Did you mean 'smollm2-135m-instruct'?"
    assert nearest("", ["a", "b"]) == " There is: a, b."


@pytest.mark.parametrize("path", [
    "./bert_mlm.yaml", "mine/bert_mlm.yaml", "bert_mlm.yml", "bert_mlm.yaml", "./recipes/bert_mlm.yaml",
    "mine/recipes/bert_mlm.yaml", "recipes/bert_mlm.yml", "../bert_mlm", "/nowhere/recipes/bert_mlm.yaml"])
def test_a_path_of_ones_own_is_never_the_packaged_recipe(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as error:
        recipe.load(path)
    assert str(error.value) == f"no recipe at {path!r}. Did you mean 'bert_mlm', which llmkit brings?"


@pytest.mark.parametrize("name", ["bert_mlm", "recipes/bert_mlm.yaml"])
def test_the_packaged_recipe_is_found_by_its_name_and_that_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("llmkit"), "info", lambda text, *words: said.append(text % words))
    assert recipe.load(name).name == "bert_mlm"
    assert said == ["recipe bert_mlm: the packaged one; `llmkit recipes show bert_mlm` prints it"]
    (tmp_path / "recipes").mkdir()
    own = recipe.packaged()["bert_mlm"].read_text().replace("name: bert_mlm", "name: mine")
    (tmp_path / "recipes" / "bert_mlm.yaml").write_text(own)
    assert recipe.load("recipes/bert_mlm.yaml").name == "mine"  # a file that is there is the user's
    assert len(said) == 1
