"""An evaluation sees the same rows with the same masks at every step, however many processes share them."""

import json

import pytest
from conftest import stories, tiny

from llmkit import recipe
from llmkit.training.fit import fit

LEARNING = {
    "masked_lm": "bert", "masked_lm_next_sentence": "bert", "replaced_token": "electra", "contrastive": "roberta",
    "permuted_lm": "xlnet", "denoising": "bart", "prefix_lm": "gpt2",
}
FIGURES = {
    "masked_lm": {"loss", "perplexity", "accuracy"},
    "masked_lm_next_sentence": {"loss", "masked_lm", "next_sentence", "perplexity", "masked_lm_accuracy",
                                "next_sentence_accuracy", "next_sentence_f1", "next_sentence_majority"},
    "replaced_token": {"loss", "generator", "discriminator", "generator_perplexity", "generator_accuracy", "accuracy",
                       "replaced", "precision", "recall", "f1"},
    "contrastive": {"loss", "accuracy", "alignment", "uniformity"},
    "permuted_lm": {"loss", "perplexity", "accuracy"},
    "denoising": {"loss", "perplexity", "accuracy"},
    "prefix_lm": {"loss", "perplexity", "accuracy"},
}


@pytest.mark.parametrize("learning", LEARNING)
def test_a_model_that_does_not_move_is_measured_the_same_at_every_step(learning, text, tmp_path):
    held = tmp_path / "held.txt"
    held.write_text("\n".join(stories(12, seed=9)) + "\n")
    tree = tiny(LEARNING[learning], text, tmp_path / "run", max_steps=2, eval_steps=1, learning_rate=0.0)
    tree["objective"] = learning
    tree["data"]["validation"] = [str(held)]
    seen = []
    for micro in (8, 4):  # dropout is on, and has no part in it
        tree["output_dir"] = str(tmp_path / str(micro))
        tree["training"]["micro_batch_size"] = micro
        fit(recipe.load(tree))
        lines = (tmp_path / str(micro) / "metrics.jsonl").read_text().splitlines()
        found = [event for event in map(json.loads, lines) if event["event"] == "evaluate"]
        assert [event["step"] for event in found] == [0, 1, 2]
        for event in found:
            assert {key: value for key, value in event.items() if key != "step"} == {
                key: value for key, value in found[0].items() if key != "step"}
        seen.append({key: value for key, value in found[0].items() if key not in ("event", "step")})
    assert set(seen[0]) == FIGURES[learning]
    assert seen[1] == pytest.approx(seen[0], rel=1e-4)  # rows are padded beside others
