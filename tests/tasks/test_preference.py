"""Preferences: two answers to one prompt become a batch of both, and DPO's loss beside the untuned model."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories, tiny

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import Reader, open_source
from llmkit.inference import evaluate as evaluation
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.preference import Preference, last_answer
from llmkit.training.fit import fit

CHAT = ("{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}")


@pytest.fixture(scope="module")
def bpe() -> Any:
    return tokenizers.train(stories(80), "bpe", 300)


def read(rows: list[dict[str, Any]], folder: Path) -> Reader:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(Source(str(path)))


def setup(tokenizer: Any, family: str = "gpt2", length: int = 32) -> Setup:
    return Setup(tokenizer, registry.find("backbones", family), length, "none", seed=0)


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [
    {"prompt": "who ?", "chosen": "the cat", "rejected": " a dog "},
    {"instruction": "who ?", "input": "", "chosen": "the cat", "rejected": "a dog"},
    {"conversations": [{"from": "human", "value": "who ?"}], "chosen": {"from": "gpt", "value": "the cat"},
     "rejected": {"from": "gpt", "value": "a dog"}},
    {"chosen": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "the cat"}],
     "rejected": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "a dog"}]},
    # TRL, with a prompt of messages, or one that stands in the answers too
    {"prompt": [{"role": "user", "content": "who ?"}], "chosen": [{"role": "assistant", "content": "the cat"}],
     "rejected": [{"role": "assistant", "content": "a dog"}]},
    {"prompt": "who ?", "chosen": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "the cat"}],
     "rejected": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "a dog"}]},
    # HH-RLHF, whole and with its prompt taken out
    {"chosen": "\n\nHuman: who ?\n\nAssistant: the cat", "rejected": "\n\nHuman: who ?\n\nAssistant: a dog"},
    {"prompt": "\n\nHuman: who ?\n\nAssistant:", "chosen": " the cat", "rejected": " a dog"},
    # OpenAI
    {"input": {"messages": [{"role": "user", "content": "who ?"}], "parallel_tool_calls": True},
     "preferred_output": [{"role": "assistant", "content": "the cat"}],
     "non_preferred_output": [{"role": "assistant", "content": "a dog"}]},
    # ms-swift
    {"messages": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "the cat"}],
     "rejected_response": "a dog"},
    {"messages": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "the cat"}],
     "rejected_messages": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "a dog"}]},
    # LLaMA-Factory, its older list of both too, and lists of one
    {"instruction": "who ?", "input": "", "output": ["the cat", "a dog"]},
    {"prompt": "who ?", "chosen": ["the cat"], "rejected": ["a dog"], "history": []},
])
def test_every_form_of_a_pair_is_one_row(row: dict[str, Any], tmp_path: Path) -> None:
    ((found, _),) = Preference().read(read([row], tmp_path))
    assert found == {"messages": [{"role": "user", "content": "who ?"}], "chosen": "the cat", "rejected": "a dog"}


def test_what_was_said_before_belongs_to_the_prompt(tmp_path: Path) -> None:
    row = {"instruction": "And grass?", "input": "", "chosen": "Green.", "rejected": "Red.",
           "history": [["Sky?", "Blue."]], "system": "Be brief."}
    ((found, _),) = Preference().read(read([row], tmp_path))
    assert [(one["role"], one["content"]) for one in found["messages"]] == [
        ("system", "Be brief."), ("user", "Sky?"), ("assistant", "Blue."), ("user", "And grass?")]


def test_an_answer_may_be_a_call(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "warmth", "arguments": '{"town": "Oslo"}'}}
    tool = {"type": "function", "function": {"name": "warmth", "parameters": {}}}
    row = {"input": {"messages": [{"role": "user", "content": "Warm?"}], "tools": [tool]},
           "preferred_output": [{"role": "assistant", "content": None, "tool_calls": [call]}],
           "non_preferred_output": [{"role": "assistant", "content": "No."}]}
    ((found, _),) = Preference().read(read([row], tmp_path))
    assert found["tools"] == [tool]
    assert found["chosen"]["tool_calls"][0]["function"]["arguments"] == {"town": "Oslo"}
    assert found["rejected"] == "No."


def test_equal_answers_are_counted(tmp_path: Path) -> None:
    same = {"prompt": "who ?", "chosen": "a dog", "rejected": "a dog"}
    reader = read([same, {**same, "chosen": "the cat"}, same], tmp_path)
    assert len(Preference().read(reader)) == 3
    assert any("2 rows have the same answer twice" in note for note in reader.notes)


def test_a_pair_too_long_is_left_out_and_counted(bpe: Any, tmp_path: Path) -> None:
    reader = read([{"prompt": "who ? " * count, "chosen": "the cat", "rejected": "a dog"} for count in (1, 40, 1)],
                  tmp_path)
    assert len(Preference().prepare([reader], None, setup(bpe)).train[0]) == 2
    assert any("1 row is left out, for the prompt alone is longer than data.max_length, 32" in note
               for note in reader.notes)


@pytest.mark.parametrize("label", ["label", "kto_tag"])
def test_kto_learns_from_rows_of_one_answer(label: str, bpe: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "the cat", "completion": "ran .", label: True},
            {"prompt": "a dog", "completion": "sat .", label: False}]
    with pytest.raises(DataError, match="its rows have one answer each and a label; sigmoid compares two"):
        Preference().read(read(rows, tmp_path))
    task = Preference(loss_type="kto")
    sets = task.prepare([read(rows, tmp_path)], None, setup(bpe))
    assert [(row.get("chosen"), row.get("rejected")) for row in sets.train[0].rows] == [
        ("ran .", None), (None, "sat .")]
    batch = task.collate(sets.train[0].features, bpe)
    assert batch["liked"].tolist() == [1, 0]
    said = [bpe.decode(ids[mask > 0]) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    # behind them, each prompt with what is said to the other
    assert said == ["the cat\nran .", "a dog\nsat .", "the cat\nsat .", "a dog\nran ."]
    with pytest.raises(DataError, match=r"'maybe'; an answer is wanted \(true\) or not"):
        task.read(read([{**rows[0], label: "maybe"}], tmp_path))


def test_kto_takes_pairs_and_swifts_messages(bpe: Any, tmp_path: Path) -> None:
    task = Preference(loss_type="kto")
    (part,) = task.prepare([read([{"prompt": "who ?", "chosen": "the cat", "rejected": "a dog"}] * 2, tmp_path)], None,
                           setup(bpe)).train
    assert (len(part), part.owners, len(part.rows)) == (4, [0, 0, 1, 1], 2)
    said = [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "a dog"}]
    row = {"messages": said, "label": False}
    ((found, _),) = task.read(read([row], tmp_path))
    assert found == {"messages": [{"role": "user", "content": "who ?"}], "rejected": "a dog"}


@pytest.mark.parametrize(("row", "message"), [
    ({"chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]},
     "nothing is asked before 'chosen' and 'rejected': a prompt is needed"),
    ({"prompt": "a", "chosen": "b"}, "no column is called 'rejected'"),
    ({"prompt": "a", "chosen": "b", "rejected": " "}, r"pairs\.jsonl:1: the field 'rejected' is empty"),
    ({"prompt": "a", "chosen": "b", "rejected": 3}, r"pairs\.jsonl:1: .*'rejected' must be a list of messages, not 3"),
    ({"prompt": 5, "chosen": "b", "rejected": "c"}, r"pairs\.jsonl:1: the field 'prompt' is no text: 5"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "chosen": "c",
      "rejected": "d"}, "the last message before the two answers is the assistant's own"),
    ({"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "a"}]},
     "the last message of 'chosen' isn't the assistant's"),
    ({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
      "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "b"}]},
     "must be the same conversation up to their last message"),
])
def test_a_row_that_is_no_pair_is_told_with_its_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        Preference().read(read([row], tmp_path))


def test_only_the_last_answer_is_compared() -> None:
    labels = np.array([-100, -100, 5, 6, -100, -100, 7, 8])
    assert last_answer({"labels": labels})["labels"].tolist() == [-100] * 6 + [7, 8]
    assert last_answer({"labels": labels[:4]})["labels"].tolist() == [-100, -100, 5, 6]


def test_a_batch_is_all_chosen_answers_then_all_rejected(bpe: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "the cat", "chosen": "saw a dog .", "rejected": "ran ."},
            {"prompt": "a dog", "chosen": "sat .", "rejected": "saw a cat ."}]
    task = Preference(template="{prompt}:")
    sets = task.prepare([read(rows, tmp_path)], None, setup(bpe))
    for features, reference in zip(sets.train[0].features, ([-3.0, -2.0], [-1.0, -4.0]), strict=True):
        features["reference"] = np.array(reference, dtype=np.float32)
    batch = task.collate(sets.train[0].features, bpe)
    said = [bpe.decode(ids[mask > 0]) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    learned = [bpe.decode(ids[ids != -100]) for ids in batch["labels"]]
    assert [text.replace(" ", "") for text in said] == [
        "thecat:sawadog.", "adog:sat.", "thecat:ran.", "adog:sawacat."]
    assert [text.replace(" ", "").removesuffix(bpe.eos_token) for text in learned] == [
        "sawadog.", "sat.", "ran.", "sawacat."]
    assert batch["reference"].tolist() == [[-3.0, -2.0], [-1.0, -4.0]]
    assert task.targets(batch)["loss"] == 2


# ---- loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_log_probabilities_are_sums_over_the_answer_by_hand(family: str, tmp_path: Path) -> None:
    import transformers

    kind = registry.find("backbones", family)
    tokenizer = tokenizers.train(stories(80), kind.tokenizer, 300)
    task = Preference()
    rows = [{"prompt": "the cat", "chosen": "saw a dog .", "rejected": "ran ."}]
    (features,) = task.prepare([read(rows, tmp_path)], None, setup(tokenizer, family)).train[0].features
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL[family] | STILL[family], tokenizer)
    model = getattr(transformers, task.head_for(kind)).from_config(config).eval()
    likely = task.likely(model, task.collate([features, features], tokenizer), kind)
    assert likely.shape == (2, 2)
    for side, name in enumerate(("", "rejected_")):
        inputs = {field: torch.from_numpy(features[name + field])[None] for field in ("input_ids",)}
        if family == "t5":
            inputs["decoder_input_ids"] = torch.from_numpy(features[name + "decoder_input_ids"])[None]
        labels = features[name + "labels"]
        each = model(**inputs).logits[0].log_softmax(-1)
        whole = sum(each[i, label].item() for i, label in enumerate(labels) if label != -100)
        assert likely[side].tolist() == pytest.approx([whole, whole], rel=1e-5)
        per_token = Preference(loss_type="ipo").likely(model, task.collate([features], tokenizer), kind)
        assert per_token[side].item() == pytest.approx(whole / (labels != -100).sum(), rel=1e-5)


def test_the_losses_are_the_papers() -> None:
    ratios = torch.tensor([[2.0, -1.0], [0.5, 0.0]])  # ahead by 1.5 and by -1
    sigmoid = [math.log(1 + math.exp(-0.1 * ahead)) for ahead in (1.5, -1.0)]
    assert Preference().losses(ratios).item() == pytest.approx(sum(sigmoid), rel=1e-6)
    other = [math.log(1 + math.exp(0.1 * ahead)) for ahead in (1.5, -1.0)]
    smoothed = sum(0.8 * a + 0.2 * b for a, b in zip(sigmoid, other, strict=True))
    assert Preference(label_smoothing=0.2).losses(ratios).item() == pytest.approx(smoothed, rel=1e-6)
    assert Preference(loss_type="ipo", beta=0.5).losses(ratios).item() == pytest.approx(0.5**2 + 2**2, rel=1e-6)


def test_ktos_loss_is_the_papers() -> None:
    """Equation 8, with z0 the mean of the other answers' ratios, or 0 where that is less."""
    task = Preference(loss_type="kto", beta=0.5, desirable_weight=2.0)
    for others, z0 in (([1.0, 0.0, 2.0], 1.0), ([-1.0, -2.0, 0.0], 0.0)):
        ratios, liked = [2.0, -1.0, 0.5], [1.0, 0.0, 1.0]
        sure = [1 / (1 + math.exp(-0.5 * (ratio - z0) * (1 if good else -1)))
                for ratio, good in zip(ratios, liked, strict=True)]
        hand = 2 * (1 - sure[0]) + (1 - sure[1]) + 2 * (1 - sure[2])
        together = torch.tensor([ratios, others, liked]).T
        assert task.compare(together)["loss"].item() == pytest.approx(hand, rel=1e-6)


def test_ktos_reference_point_is_not_learned_from() -> None:
    together = torch.tensor([[1.0, 2.0, 1.0], [0.0, 1.0, 0.0]], requires_grad=True)
    Preference(loss_type="kto").compare(together)["loss"].backward()
    assert together.grad is not None
    assert together.grad[:, 0].abs().min() > 0
    assert together.grad[:, 1].tolist() == [0, 0]


def test_orpos_loss_is_the_papers() -> None:
    """Equations 6 and 7: -log p of the chosen answer and lambda times -log sigmoid of the odds' ratio."""
    likely = [[-0.5, -2.0], [-1.5, -0.3]]

    def odds(mean: float) -> float:
        return math.exp(mean) / (1 - math.exp(mean))

    hand = sum(-good + 0.2 * -math.log(1 / (1 + odds(bad) / odds(good)))
               for good, bad in zip(*likely, strict=True))
    assert Preference(loss_type="orpo", beta=0.2).losses(torch.tensor(likely)).item() == pytest.approx(hand, rel=1e-6)
    sure = torch.tensor([[0.0], [-1.0]], requires_grad=True)  # an answer that is certain
    loss = Preference(loss_type="orpo").losses(sure)
    loss.backward()
    assert sure.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(sure.grad).all()


def test_what_each_loss_needs_is_known() -> None:
    assert [(Preference(loss_type=name).reference, Preference(loss_type=name).whole)
            for name in ("sigmoid", "ipo", "kto", "orpo")] == [(True, False), (True, False), (True, True),
                                                               (False, False)]


def test_figures_of_single_answers_by_hand(bpe: Any) -> None:
    task = Preference(loss_type="kto", beta=0.5)
    rows = [{"chosen": "a"}, {"rejected": "b"}, {"chosen": "c"}, {"rejected": "d"}]
    said = [task.combine([[ratio, 0.0, 1.0]], row, setup(bpe))
            for ratio, row in zip((2.0, 1.0, 0.0, -1.0), rows, strict=True)]
    assert said[0] == {"chosen_reward": 1.0}
    assert task.metrics({"loss": 0.6}, list(zip(said, rows, strict=True))) == pytest.approx({
        "loss": 0.6, "reward_accuracy": 0.75, "reward_margin": 0.5, "chosen_reward": 0.5, "rejected_reward": 0.0})


def test_figures_by_hand(bpe: Any) -> None:
    task = Preference(beta=0.5)
    said = [task.combine([ratios], {}, setup(bpe)) for ratios in ([2.0, 1.0], [-1.0, 0.0], [4.0, 1.0])]
    assert said[0] == {"preferred": "chosen", "chosen_reward": 1.0, "rejected_reward": 0.5}
    assert task.metrics({"loss": 0.6}, [(one, {}) for one in said]) == pytest.approx({
        "loss": 0.6, "reward_accuracy": 2 / 3, "reward_margin": 0.5, "chosen_reward": 2.5 / 3,
        "rejected_reward": 1 / 3})


# ---- runs -------------------------------------------------------------------------------------------------------


def tree(preferred: Path, folder: Path, base: Path | None = None, **training: Any) -> dict[str, Any]:
    out = tiny("gpt2", preferred, folder, still=True, **training)
    del out["objective"]
    out["task"] = "preference"
    out["data"] = {"train": str(preferred), "validation": [str(preferred)], "max_length": 40}
    if base is not None:
        out["backbone"] = {"pretrained": str(base), "config": STILL["gpt2"]}
        del out["tokenizer"]
    return out


def test_before_the_first_step_nothing_is_preferred_and_then_the_chosen_answers_are(
    preferred: Path, text: Path, tmp_path: Path
) -> None:
    fit(recipe.load(tiny("gpt2", text, tmp_path / "base", max_steps=2)))
    made = tree(preferred, tmp_path / "run", tmp_path / "base", max_steps=12, learning_rate=3e-3)
    summary = fit(recipe.load(made))
    before, after = summary["evaluation_before"], summary["evaluation"]
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert before["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert after["loss"] < 0.6
    assert after["reward_accuracy"] > 0.9
    again = evaluation.evaluate(tmp_path / "run", preferred)["metrics"]  # beside the model that it was tuned from
    assert again == pytest.approx(after, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss_type", ["kto", "orpo"])
def test_the_other_losses_prefer_the_chosen_answers_too(
    loss_type: str, preferred: Path, text: Path, tmp_path: Path
) -> None:
    fit(recipe.load(tiny("gpt2", text, tmp_path / "base", max_steps=2)))
    made = tree(preferred, tmp_path / "run", tmp_path / "base", max_steps=12, learning_rate=3e-3)
    made["task"] = {"name": "preference", "loss_type": loss_type}
    summary = fit(recipe.load(made))
    before, after = summary["evaluation_before"], summary["evaluation"]
    if loss_type == "kto":  # nothing is ahead yet: 1 - sigmoid(0)
        assert before["loss"] == pytest.approx(0.5, abs=1e-5)
    assert after["loss"] < before["loss"]
    assert after["reward_accuracy"] > 0.9
    again = evaluation.evaluate(tmp_path / "run", preferred)["metrics"]
    assert again == pytest.approx(after, rel=1e-4, abs=1e-5)


def test_a_run_from_scratch_has_nothing_to_be_measured_beside(preferred: Path, tmp_path: Path) -> None:
    fit(recipe.load(tree(preferred, tmp_path / "run", max_steps=1)))
    with pytest.raises(RequestError, match="give a run that started from a pretrained model"):
        evaluation.evaluate(tmp_path / "run", preferred)


def test_a_killed_run_refers_to_the_same_model_again(preferred: Path, text: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    fit(recipe.load(tiny("gpt2", text, tmp_path / "base", max_steps=1)))
    made = tree(preferred, tmp_path / "run", tmp_path / "base", max_steps=6, save_steps=3)
    fit(recipe.load(made))
    whole = load_file(tmp_path / "run" / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    fit(recipe.load(made), resume="must")
    cut = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(RequestError, match="label_smoothing is of the sigmoid loss"):
        recipe.load({"data": {"train": "builtin:docstring-preferences"}, "backbone": {"family": "gpt2", "size": "tiny"},
                     "task": {"name": "preference", "loss_type": "ipo", "label_smoothing": 0.1}})
