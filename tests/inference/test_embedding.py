"""Embeddings from tiny random encoders, against plain transformers, one text at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WHO, stories, tiny
from transformers import AutoModel, AutoTokenizer, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from llmkit import models, recipe
from llmkit.inference.embedding import Embedder, _batches
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.training.fit import fit

TEXTS = [*stories(40, 11), "a dog", "the cat saw"]
POOLED = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
    "max": lambda states: states.max(0).values,
    "mean_sqrt_len": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean": lambda states: sum((i + 1) * state for i, state in enumerate(states))
    / sum(range(1, len(states) + 1)),
}


@pytest.fixture
def wordpiece(encoder):
    return AutoTokenizer.from_pretrained(encoder)


@pytest.fixture
def described(encoder, tmp_path):
    """The same, with files for sentence-transformers."""

    def make(pooling, *others, **files):
        folder = tmp_path / "described"
        folder.mkdir()
        for path in encoder.iterdir():
            (folder / path.name).symlink_to(path)
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *others]
        (folder / "modules.json").write_text(json.dumps(
            [{"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
             for i, (path, kind) in enumerate(modules)]))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder

    return make


def states(folder, text, length=512):
    """The last hidden states of one text, by plain transformers: (tokens, width)."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=length)
        return model(**inputs).last_hidden_state[0]


def test_a_vector_is_the_mean_of_transformers_hidden_states(encoder):
    vectors = Embedder.open(encoder).embed(TEXTS[:6])
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=False):
        np.testing.assert_allclose(vector, POOLED["mean"](states(encoder, text)).numpy(), atol=1e-5)


def test_a_vector_does_not_depend_on_what_else_is_embedded(encoder, monkeypatch):
    embedder = Embedder.open(encoder)
    together = embedder.embed(TEXTS)
    np.testing.assert_allclose(together, np.concatenate([embedder.embed([text]) for text in TEXTS]), atol=1e-5)
    np.testing.assert_allclose(together[::-1], embedder.embed(TEXTS[::-1]), atol=1e-5)
    monkeypatch.setattr("llmkit.inference.embedding.CHUNK", 5)
    np.testing.assert_allclose(together, embedder.embed(TEXTS), atol=1e-5)


def test_rows_of_like_length_share_a_batch():
    assert _batches([2, 9, 3, 8], 18) == [[1, 3], [2, 0]]
    assert _batches([5, 5, 5], 10) == [[0, 1], [2]]
    assert _batches([50], 10) == [[0]]


@pytest.mark.parametrize("mode", POOLED)
def test_pooling_is_what_the_files_say(described, mode):
    token = "_token" if mode == "cls" else "" if mode == "lasttoken" else "_tokens"
    folder = described({f"pooling_mode_{mode}{token}": True, "include_prompt": True})
    vectors = Embedder.open(folder).embed(["the cat saw the moon", "a dog"])
    for text, vector in zip(["the cat saw the moon", "a dog"], vectors, strict=True):
        np.testing.assert_allclose(vector, POOLED[mode](states(folder, text)).numpy(), atol=1e-5)


def test_several_poolings_stand_side_by_side_and_length_is_one_where_it_is_said(described):
    folder = described({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, ("2_Normalize", "Normalize"))
    embedder = Embedder.open(folder)
    vector = embedder.embed(["the cat saw"])[0]
    both = torch.cat([POOLED[mode](states(folder, "the cat saw")) for mode in ("cls", "max")])
    np.testing.assert_allclose(vector, (both / both.norm()).numpy(), atol=1e-5)
    assert embedder.width == len(vector) == 64


def test_a_long_text_is_cut_at_the_models_length_and_that_is_said(described, caplog):
    folder = described({"pooling_mode": "mean"}, sentence_bert_config={"max_seq_length": 8})
    embedder = Embedder.open(folder)
    long = "the cat saw the moon and a dog chased a red ball"
    with caplog.at_level("INFO", "llmkit"):
        vectors = embedder.embed([long, "a dog"])
    assert f"{folder} reads 8 tokens: the ends of 1 of 2 texts are left out" in caplog.text
    np.testing.assert_allclose(vectors[0], POOLED["mean"](states(folder, long, 8)).numpy(), atol=1e-5)
    ids, cut = embedder.ids([long, "a dog"])
    assert (len(ids[0]), ids[1], cut) == (8, embedder.opened.tokenizer("a dog").input_ids, 1)


def test_queries_and_documents_get_the_prompts_that_the_model_names(described):
    folder = described({"pooling_mode": "mean"}, config_sentence_transformers={
        "prompts": {"query": "the moon ", "passage": "a hat "}, "default_prompt_name": None},
        sentence_bert_config={"do_lower_case": True})
    embedder = Embedder.open(folder)
    np.testing.assert_array_equal(embedder.embed(["A dog"], "query"), embedder.embed(["the moon a dog"]))
    np.testing.assert_array_equal(embedder.embed(["a dog"], "document"), embedder.embed(["a hat a dog"]))


def test_a_decoder_embeds_where_its_files_say_so(tmp_path, wordpiece):
    torch.manual_seed(1)
    wide = {"vocab_size": len(wordpiece), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "initializer_range": 0.5}
    LlamaModel(LlamaConfig(**wide)).save_pretrained(tmp_path)
    wordpiece.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"no sentence encoder: a llama is made to write.*Use minilm-l6"):
        Embedder.open(tmp_path)
    (tmp_path / "modules.json").write_text('[{"path": "", "type": ".Transformer"}, {"path": "1", "type": ".Pooling"}]')
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    vectors = Embedder.open(tmp_path).embed(TEXTS[:8])
    for text, vector in zip(TEXTS, vectors, strict=False):
        np.testing.assert_allclose(vector, states(tmp_path, text)[-1].numpy(), atol=1e-5)


def test_what_cannot_embed_is_refused_before_its_weights_are_read(tmp_path, described):
    GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1)).config.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(RequestError, match="a gpt2 is made to write text"):
        Embedder.open(tmp_path / "gpt2")
    with pytest.raises(RequestError, match="doesn't know a module 'Dense'"):
        Embedder.open(described({"pooling_mode": "mean"}, ("2_Dense", "Dense")))


def test_an_unknown_pooling_names_those_there_are(described):
    with pytest.raises(RequestError, match=r"this pooling: median; it knows mean, cls"):
        Embedder.open(described({"pooling_mode_median": True}))


def test_no_texts_are_no_rows_and_a_text_without_tokens_is_told(encoder, monkeypatch):
    embedder = Embedder.open(encoder)
    assert embedder.embed([]).shape == (0, 32)
    monkeypatch.setattr(Embedder, "ids", lambda self, texts, role: ([[5, 6], []], 0))
    with pytest.raises(RequestError, match="text 2 of 2 is empty"):
        embedder.embed(["a", ""])


def test_weights_that_are_missing_are_told(described):
    from safetensors.torch import load_file, save_file

    folder = described({"pooling_mode": "mean"})
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({name: tensor for name, tensor in weights.items() if "pooler" not in name}, folder / "model.safetensors",
              {"format": "pt"})
    Embedder.open(folder)  # nothing reads the pooler
    del weights["encoder.layer.0.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, encoder\.layer\.0\.output\.dense\.bias"):
        Embedder.open(folder)


def test_the_fingerprint_follows_content_and_not_the_name(encoder, described):
    folder = described({"pooling_mode": "mean"}, sentence_bert_config={"max_seq_length": 16})
    first, again, other = (Embedder.open(one).fingerprint() for one in (encoder, f"{encoder}/.", folder))
    assert first == again != other


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_a_run_embeds_as_it_learned_to(pairs: Path, tmp_path: Path, method: str) -> None:
    tree = tiny("bert", pairs, tmp_path / "run")
    del tree["objective"]
    tree["data"]["validation"] = 0.2
    settled = recipe.load({**tree, "task": {"name": "similarity", "pooling": "cls"}, "tuning": {"method": "full"}})
    fit(settled)
    run = tmp_path / "run"
    if method != "full":
        tree["backbone"] = {"pretrained": str(run)}
        del tree["tokenizer"]
        tree["output_dir"] = str(tmp_path / "tuned")
        fit(recipe.load({**tree, "task": {"name": "similarity", "pooling": "cls"}, "tuning": {"method": method}}))
        run = tmp_path / "tuned"
    embedder = Embedder.open(run)
    assert (embedder.pooling, embedder.max_length) == (("cls",), 32)
    from llmkit.inference import predict as prediction

    rows = [json.loads(line) for line in pairs.read_text().splitlines()][:8]
    first, second = (embedder.embed([row[name] for row in rows]) for name in ("sentence1", "sentence2"))
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    said = [one["score"] for one, _ in zip(prediction.predict(run, pairs), rows, strict=False)]
    np.testing.assert_allclose(cosines, said, atol=1e-5)


def test_an_adapter_of_another_head_is_in_the_body(text: Path, tmp_path: Path) -> None:
    """A LoRA trained under masked-language modelling changes the vectors as its merged model's."""
    from llmkit import exporting

    base = tiny("bert", text, tmp_path / "base")
    fit(recipe.load(base))
    tuned = {**base, "backbone": {"pretrained": str(tmp_path / "base")}, "output_dir": str(tmp_path / "lora"),
             "tuning": {"method": "lora"}, "training": {**base["training"], "learning_rate": 0.1}}
    del tuned["tokenizer"]
    fit(recipe.load(tuned))
    exporting.export(str(tmp_path / "lora"), str(tmp_path / "merged"))
    vectors = Embedder.open(tmp_path / "lora").embed(WHO)
    np.testing.assert_allclose(vectors, Embedder.open(tmp_path / "merged").embed(WHO), atol=1e-5)
    assert np.abs(vectors - Embedder.open(tmp_path / "base").embed(WHO)).max() > 0.01


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_the_head_that_an_adapter_brings_is_not_missing(
    method: str, text: Path, labelled: Path, tmp_path: Path,
) -> None:
    base = tiny("bert", text, tmp_path / "base")
    fit(recipe.load(base))
    tree = tiny("bert", labelled, tmp_path / "labels")
    del tree["tokenizer"], tree["objective"]
    fit(recipe.load({**tree, "backbone": {"pretrained": str(tmp_path / "base")}, "task": {"name": "classification"},
                     "tuning": {"method": method}}))
    assert models.open_model(tmp_path / "labels").missing == ()
    if method == "lora":  # a soft prompt is for the head that it learned with
        assert np.isfinite(Embedder.open(tmp_path / "labels").embed(WHO)).all()
        assert models.open_model(tmp_path / "labels", "AutoModelForQuestionAnswering").missing == (
            "qa_outputs.bias", "qa_outputs.weight")


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_in_bf16_vectors_are_those_of_transformers_in_bf16_and_the_distance_to_fp32_is_said(encoder, caplog):
    embedder = Embedder.open(encoder, precision="bf16")
    with caplog.at_level("INFO", "llmkit"):
        found = embedder.embed(TEXTS)
        embedder.embed(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = np.stack([POOLED["mean"](states(encoder, text).float()).numpy() for text in TEXTS])
    whole = Embedder.open(encoder).embed(TEXTS)
    assert found.dtype == np.float32
    assert not np.array_equal(found, whole)
    assert cosines(found, theirs).min() > 0.9999
    assert cosines(found, whole).min() > 0.999
    (said,) = [record.getMessage() for record in caplog.records if "computes in bf16" in record.getMessage()]
    least = cosines(found, whole)[:16].min()
    assert said.startswith(f"{encoder} computes in bf16: the first 16 vectors are of cosine ")
    assert float(said.split()[11]) == pytest.approx(float(least), abs=2e-5)


def test_where_nothing_is_said_a_model_that_is_no_run_computes_in_fp32(encoder):
    assert Embedder.open(encoder).numbers == "fp32"


def test_another_precision_is_another_index(encoder):
    made = [Embedder.open(encoder, precision=precision).fingerprint() for precision in ("auto", "fp32", "bf16")]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(("precision", "said"), [
    ("bf61", "--precision bf61: is none of auto, fp32, bf16, fp16. Did you mean 'bf16'?"),
    ("fp16", "--precision: fp16 needs a GPU; on a CPU it is far slower than fp32. Use bf16 or fp32."),
])
def test_a_precision_that_cant_be_is_refused_before_the_weights_are_read(encoder, precision, said):
    with pytest.raises(RequestError) as refused:
        Embedder.open(encoder, precision=precision)
    assert str(refused.value) == said
