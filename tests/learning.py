"""What the tests of exactness and of resuming train: objectives and tasks, and the file that each learns from."""

from typing import Any

LEARNING: dict[str, tuple[str, str | dict[str, Any]]] = {
    "masked_lm": ("bert", "masked_lm"),
    "whole_word": ("bert", {"name": "masked_lm", "whole_word": True, "spans": True}),
    "next_sentence": ("bert", "next_sentence"),
    "sentence_order": ("albert", "sentence_order"),
    "masked_lm_next_sentence": ("bert", "masked_lm_next_sentence"),
    "replaced_token": ("electra", "replaced_token"),
    "contrastive": ("roberta", "contrastive"),
    "adversarial": ("gpt2", {
        "name": "adversarial", "warmup": 0, "discriminator_warmup": 0, "sample_length": 8,
        "discriminator_config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}),
    "causal_lm": ("gpt2", "causal_lm"),
    "negatives": ("llama", {"name": "causal_lm", "negatives": 20}),
    "fill_in_the_middle": ("qwen3", {"name": "causal_lm", "fill_in_the_middle": 0.5}),
    "span_corruption": ("t5", "span_corruption"),
    "ul2": ("umt5", {"name": "span_corruption", "denoisers": "ul2"}),
    "denoising": ("bart", "denoising"),
    "prefix_lm": ("gpt2", "prefix_lm"),
    "prefix_lm_t5": ("t5", "prefix_lm"),
    "permuted_lm": ("xlnet", "permuted_lm"),
    "classification": ("bert", "classification"),
    "pooled": ("electra", {"name": "classification", "pooling": "mean"}),
    "instruction": ("gpt2", "instruction"),
    "tagging": ("roberta", {"name": "tagging", "stride": 4}),
    "tagging_xlnet": ("xlnet", "tagging"),
    "question_answering": ("bert", {"name": "question_answering", "doc_stride": 4}),
    "summarization": ("gpt2", {"name": "summarization", "max_new_tokens": 8}),
    "preference": ("gpt2", {"name": "preference", "beta": 0.5}),
    "kto": ("gpt2", {"name": "preference", "loss_type": "kto", "beta": 0.5}),
    "orpo": ("t5", {"name": "preference", "loss_type": "orpo"}),
    "translation": ("transformer", {"name": "translation", "label_smoothing_factor": 0.1}),
    "weighted": ("bert", {"name": "classification", "class_weights": "balanced", "label_smoothing": 0.1}),
    "multi_label": ("electra", {"name": "classification", "class_weights": "balanced"}),
    "regression": ("roberta", "classification"),
    "similarity": ("roberta", "similarity"),
    "pairs": ("bert", {"name": "similarity", "loss_type": "negatives"}),
    "multiple_choice": ("albert", "multiple_choice"),
}
"""What is learned, by which family: (family, its block in a recipe)."""
ROWS = {"classification": "labelled", "pooled": "labelled", "weighted": "labelled", "instruction": "asked",
        "multi_label": "several", "regression": "rated", "similarity": "pairs", "pairs": "pairs",
        "multiple_choice": "choices", "tagging": "tagged", "tagging_xlnet": "tagged", "question_answering": "questions",
        "summarization": "summarized", "translation": "parallel", "preference": "preferred", "kto": "preferred",
        "orpo": "preferred"}
"""Which of the tests' files tasks learn from."""
