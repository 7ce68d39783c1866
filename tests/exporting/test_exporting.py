import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import OBJECTIVE, SMALL, WORDS, tiny

import llmkit
from llmkit import models, recipe
from llmkit.cli import main
from llmkit.objectives.shared.embedding import describe, embed
from llmkit.recipe import registry
from llmkit.system.errors import PlaceError, RequestError
from llmkit.training.fit import fit

Tune = Callable[..., Path]
Body = Callable[..., Path]


@pytest.fixture(scope="module")
def tune(text: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Tune:
    """A model of a family, tuned for a few steps."""
    bases: dict[str, Path] = {}

    def make(family: str, method: str, task: str | None = None, **options: Any) -> Path:
        if family not in bases:
            bases[family] = tmp_path_factory.mktemp("base") / family
            fit(recipe.load(tiny(family, text, bases[family], max_steps=1)))
        folder = tmp_path_factory.mktemp("tuned") / f"{family}-{method}"
        fit(recipe.load({
            "name": "tuned", "backbone": {"pretrained": str(bases[family])}, "tuning": {"method": method, **options},
            "data": {"train": str(labelled if task else text), "max_length": 32},
            **({"task": task} if task else {"objective": OBJECTIVE[family]}), "output_dir": str(folder),
            "training": {"figures": False,
                         "max_steps": 4, "global_batch_size": 8, "learning_rate": 0.02, "precision": "fp32"}}))
        return folder

    return make


def logits(model: Any, length: int = 8) -> torch.Tensor:
    ids = {"input_ids": torch.arange(5, 5 + length)[None]}
    if model.config.is_encoder_decoder:
        ids["decoder_input_ids"] = ids["input_ids"]
    with torch.no_grad():
        return model.eval()(**ids).logits


@pytest.mark.parametrize(("family", "method", "task", "options"), [
    ("bert", "lora", "classification", {}), ("gpt2", "lora", None, {"init_lora_weights": "pissa", "use_dora": True}),
    ("roberta", "adalora", "classification", {}), ("t5", "ia3", None, {}), ("llama", "vera", None, {"r": 8}),
    ("bert", "peft", None, {"peft_type": "LOHA"}),
], ids=["lora", "pissa", "adalora", "ia3", "vera", "peft"])
def test_merged_it_says_the_same_in_plain_transformers(
    family: str, method: str, task: str | None, options: dict[str, Any], tune: Tune, tmp_path: Path
) -> None:
    import transformers

    run = tune(family, method, task, **options)
    adapter = models.open_model(run)
    done = llmkit.export(run, tmp_path / "out")
    assert done["class"] == adapter.kind
    assert not list((tmp_path / "out").glob("adapter*"))
    merged = getattr(transformers, adapter.kind).from_pretrained(tmp_path / "out")
    assert type(merged).__module__.startswith("transformers.")
    base = models.open_model(json.loads((run / "model" / "adapter_config.json").read_text())[
        "base_model_name_or_path"], adapter.kind)
    expected = logits(adapter.model)
    assert (logits(merged) - expected).abs().max() <= 1e-5
    assert (logits(base.model) - expected).abs().max() > 1e-4


@pytest.fixture(scope="module")
def bodies(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Body:
    """A small model of a family with random weights under any head, saved with a tokenizer."""
    words = text.read_text().splitlines()
    tokenizers: dict[str, Any] = {}

    def make(family: str, head: str, **fields: Any) -> Path:
        import transformers

        from llmkit.data import tokenizer

        cls: Any = registry.find("backbones", family)
        if family not in tokenizers:
            tokenizers[family] = tokenizer.train(words, cls.tokenizer, WORDS[family], special=cls.special)
        config = cls.config("tiny", {**SMALL[family], **fields}, tokenizers[family])
        torch.manual_seed(1)
        model = getattr(transformers, head).from_config(config)
        for one in model.parameters():  # weights of 0.02 make logits that are all the same
            if one.ndim > 1:
                one.data.normal_(0, 0.3)
        folder = tmp_path_factory.mktemp("body") / f"{family}-{head}-{len(fields)}"
        model.save_pretrained(folder)
        tokenizers[family].save_pretrained(folder)
        return folder

    return make


NAMES = {"id2label": {0: "moon", 1: "hat", 2: "ball"}, "label2id": {"moon": 0, "hat": 1, "ball": 2}}
HEADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "decoder": ("gpt2", "AutoModelForCausalLM", {}),
    "chat": ("llama", "AutoModelForCausalLM", {}),
    "encoder-decoder": ("t5", "AutoModelForSeq2SeqLM", {}),
    "masked": ("roberta", "AutoModelForMaskedLM", {}),
    "permuted": ("xlnet", "AutoModelForCausalLM", {}),
    "label": ("bert", "AutoModelForSequenceClassification", NAMES),
    "labels": ("bert", "AutoModelForSequenceClassification", {**NAMES, "problem_type": "multi_label_classification"}),
    "number": ("bert", "AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "tags": ("bert", "AutoModelForTokenClassification", NAMES),
    "answer": ("bert", "AutoModelForQuestionAnswering", {}),
    "answer in one text": ("gpt2", "AutoModelForQuestionAnswering", {}),
    "choice": ("bert", "AutoModelForMultipleChoice", {}),
    "embedding": ("bert", "AutoModel", {}),
    "replaced": ("electra", "AutoModelForPreTraining", {}),
    "replaced, by tags": ("bert", "AutoModelForTokenClassification", {"num_labels": 1}),
    "two heads": ("bert", "AutoModelForPreTraining", {}),
    "next sentence": ("bert", "AutoModelForNextSentencePrediction", {}),
}
"""A family, an auto class and fields of the config, by what its head is for."""
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def models_of_each_head(bodies: Body) -> dict[str, Path]:
    folders = {name: bodies(family, head, **fields) for name, (family, head, fields) in HEADS.items()}
    (folders["chat"] / "chat_template.jinja").write_text(TEMPLATE)
    describe(folders["embedding"], "mean")
    return folders


CARDS = """
import contextlib, io, json, os, re, sys
for name in {blocked}:
    sys.modules[name] = None
told = {{}}
for folder in sys.argv[1:]:
    os.chdir(folder)
    said, card = io.StringIO(), {{}}
    shown = re.findall("```python\\n(.*?)```", open("README.md").read(), re.DOTALL)
    code = next(code for code in shown if "llama_cpp" not in code)
    with contextlib.redirect_stdout(said):
        exec(code, card)
    told[folder] = {{"said": said.getvalue(), {more}}}
print(json.dumps(told))
"""


def run_cards(folders: Iterable[Path], blocked: tuple[str, ...], more: str) -> dict[str, Any]:
    """What each folder's card prints in a process that can't import some modules, and what else is asked there."""
    code = CARDS.format(blocked=blocked, more=more)
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return {Path(folder).name: said for folder, said in told.items()}


@pytest.fixture(scope="module")
def writers(bodies: Body, models_of_each_head: dict[str, Path]) -> dict[str, Path]:
    return {"llama": models_of_each_head["chat"], "gpt2": models_of_each_head["decoder"],
            "qwen3": bodies("qwen3", "AutoModelForCausalLM")}


@pytest.fixture(scope="module")
def told(
    models_of_each_head: dict[str, Path], writers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the cards of all heads say in plain transformers, and of the decoders' GGUF files, by name or family."""
    place = tmp_path_factory.mktemp("exported")
    for name, folder in models_of_each_head.items():
        assert llmkit.export(folder, place / name)["class"] == HEADS[name][1]
    for family, folder in writers.items():
        assert llmkit.export(folder, place / family, format="gguf")["files"] == ["model-F32.gguf"]
    return run_cards([place / name for name in (*HEADS, *writers)], ("llmkit", "peft"), """
        "type": type(card["model"]).__module__.partition(".")[0],
        "inputs": {name: one.tolist() for name, one in card["inputs"].items()},
        "logits": [one.flatten().tolist() for one in card["model"](**card["inputs"], **(
            {"decoder_input_ids": card["inputs"]["input_ids"]} if card["model"].config.is_encoder_decoder else {}
        )).values() if hasattr(one, "flatten")]""")


def test_each_heads_card_runs_in_plain_transformers_and_the_model_says_the_same(
    models_of_each_head: dict[str, Path], told: dict[str, Any]
) -> None:
    for name, folder in models_of_each_head.items():
        assert told[name]["type"] == "transformers"
        model: Any = models.open_model(folder).model
        inputs = {key: torch.tensor(one) for key, one in told[name]["inputs"].items()}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            expected = [one.flatten() for one in model(**inputs).values() if isinstance(one, torch.Tensor)]
        assert len(expected) == len(told[name]["logits"]) >= 1
        for ours, theirs in zip(expected, told[name]["logits"], strict=True):
            assert torch.allclose(ours, torch.tensor(theirs), atol=1e-5)
    said = {name: told[name]["said"].strip() for name in HEADS}
    assert said["chat"].replace(" ", "").startswith("user:Whoareyou?\nassistant:")
    assert said["label"] in ("moon", "hat", "ball")
    assert json.loads(said["labels"].replace("'", '"')) == [
        name for name, logit in zip(("moon", "hat", "ball"), told["labels"]["logits"][0], strict=True) if logit > 0]
    assert float(said["number"]) == pytest.approx(told["number"]["logits"][0][0], abs=1e-4)
    assert said["tags"].startswith("[('[CLS]', '")
    assert said["choice"] in ("0", "1")
    assert said["embedding"].startswith("tensor([[")
    assert 0 < float(said["replaced"].partition(", ")[2].partition(")")[0]) < 1
    assert sum(json.loads(said["next sentence"])) == pytest.approx(1)


@pytest.mark.slow
def test_each_heads_onnx_card_runs_without_torch_and_says_what_torch_says(
    models_of_each_head: dict[str, Path], tmp_path: Path
) -> None:
    heads = {name: folder for name, folder in models_of_each_head.items() if name != "permuted"}
    for name, folder in heads.items():
        done = llmkit.export(folder, tmp_path / name, format="onnx")
        assert done["difference"] <= 1e-4
        assert done["files"] == (["decoder_model.onnx", "encoder_model.onnx"] if name == "encoder-decoder"
                                 else ["model.onnx"])
    told = run_cards([tmp_path / name for name in heads], ("llmkit", "torch", "transformers"), """
        "ids": card.get("ids"), "inputs": card.get("inputs"),
        "outputs": "inputs" in card and [one.ravel().tolist() for one in card["model"].run(
            None, {key: card["numpy"].array(one) for key, one in card["inputs"].items()})]""")
    for name, folder in heads.items():
        opened = models.open_model(folder)
        model: Any = opened.model
        with torch.no_grad():
            if told[name]["inputs"] is None:  # it writes: the card's loop takes the likeliest token each time
                prompt = ("user: Who are you?\nassistant:" if name == "chat" else
                          "The cat saw the moon." if name == "encoder-decoder" else "Once upon a time")
                read = opened.tokenizer(prompt, return_tensors="pt")
                assert told[name]["ids"] == model.generate(**read, max_new_tokens=40, do_sample=False)[0].tolist()
                continue
            inputs = {key: torch.tensor(one) for key, one in told[name]["inputs"].items()}
            expected = {key: one.flatten() for key, one in model(**inputs).items() if isinstance(one, torch.Tensor)}
        if name == "embedding":
            expected = {"last_hidden_state": expected["last_hidden_state"], "sentence_embedding": embed(
                model, inputs, registry.find("backbones", "bert"), "mean").flatten()}
        for ours, theirs in zip(expected.values(), told[name]["outputs"], strict=True):
            assert (ours - torch.tensor(theirs)).abs().max() <= 1e-4


def test_plain_transformers_reads_the_gguf_file_back_with_the_same_logits(
    writers: dict[str, Path], told: dict[str, Any]
) -> None:
    for family, folder in writers.items():
        opened = models.open_model(folder)
        ids = opened.tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
        assert told[family]["inputs"]["input_ids"] == ids.tolist()
        with torch.no_grad():
            expected = opened.model(ids).logits.flatten()
        assert (expected - torch.tensor(told[family]["logits"][0])).abs().max() <= 1e-5


def test_a_gguf_file_says_what_llama_cpp_needs_to_know(writers: dict[str, Path], tmp_path: Path) -> None:
    from gguf import GGUFReader

    llmkit.export(writers["llama"], tmp_path / "out", format="gguf", dtype="q8_0")
    file = GGUFReader(tmp_path / "out" / "model-Q8_0.gguf")
    said = {name: field.contents() for name, field in file.fields.items()}
    tokenizer = models.open_model(writers["llama"]).tokenizer
    assert said["general.architecture"] == "llama"
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert said["tokenizer.chat_template"] == TEMPLATE
    assert said["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert said["tokenizer.ggml.token_type"][:3] == [3, 3, 1]  # <|endoftext|> and <|pad|> are never text
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert (said["llama.attention.head_count"], said["llama.attention.head_count_kv"]) == (2, 1)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in file.tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"


def test_q8_0_is_a_scale_and_32_whole_numbers_a_block(writers: dict[str, Path], tmp_path: Path) -> None:
    import numpy as np
    from gguf import GGUFReader

    llmkit.export(writers["qwen3"], tmp_path / "out", format="gguf", dtype="q8_0")
    (tensor,) = (one for one in GGUFReader(tmp_path / "out" / "model-Q8_0.gguf").tensors
                 if one.name == "blk.1.ffn_down.weight")
    blocks = tensor.data.reshape(-1, 34)
    values = blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 2:].view(np.int8)
    weight = models.open_model(writers["qwen3"]).model.state_dict()["model.layers.1.mlp.down_proj.weight"]
    ours = weight.numpy().reshape(-1, 32)
    step = np.abs(ours).max(1, keepdims=True) / 127
    assert (np.abs(values - ours) <= 0.57 * step).all()  # the scale is rounded too, to 16 bits
    assert np.abs(values - ours).max() > 0


def test_a_gguf_file_that_says_something_else_is_not_left_behind(
    writers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmkit.exporting.formats import gguf

    monkeypatch.setattr(gguf, "turned", lambda name, values, *_, **__: values)
    with pytest.raises(RequestError, match="the file says something else than the model"):
        llmkit.export(writers["llama"], tmp_path / "out", format="gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("head", "message"), [
    ("label", "a BertForSequenceClassification can't be written; LlamaForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel"),
    ("answer in one text", "a GPT2ForQuestionAnswering can't be written"),
])
def test_what_no_gguf_file_can_hold_is_refused_by_name(
    head: str, message: str, models_of_each_head: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        llmkit.export(models_of_each_head[head], tmp_path / "out", format="gguf")


def test_a_tokenizer_that_llama_cpp_cuts_otherwise_is_refused(writers: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(writers["qwen3"], tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    whole = json.loads(path.read_text())
    for change, message in (
        ({"normalizer": {"type": "Lowercase"}}, r"changes text before it cuts it \(Lowercase\)"),
        ({"pre_tokenizer": {**whole["pre_tokenizer"], "add_prefix_space": True}}, "puts a space before every text"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False},
            {**whole["pre_tokenizer"], "use_regex": False}]}}, "no cut into words like its own"),
    ):
        path.write_text(json.dumps({**whole, **change}))
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
        (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(plain))
        with pytest.raises(RequestError, match=message):
            llmkit.export(tmp_path / "model", tmp_path / "out", format="gguf")


def test_merges_become_sentencepiece_scores_where_they_go_by_the_token_that_they_make() -> None:
    from llmkit.exporting.formats.gguf import scores_of

    tokens = ["<s>", "a", "b", "c", "ab", "bc", "abc"]
    normal, merges = set(tokens[1:]), [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]
    assert scores_of(tokens, normal, merges) == [0, 0, 0, 0, 0, -1, -2]
    with pytest.raises(RequestError, match="aren't those that SentencePiece would make"):
        scores_of(tokens, normal, merges[:3])  # a + bc would be merged by llama.cpp, and isn't here
    with pytest.raises(RequestError, match="aren't those that SentencePiece would make"):
        scores_of(tokens, normal, [merges[2], merges[0], merges[3], merges[1]])


def test_llama_cpp_cuts_text_and_writes_as_transformers_does(writers: dict[str, Path], tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is built from source: minutes of compiling")
    text = "the cat saw  the moon .\n\nA dog's 12345 hats, na\u00efve caf\u00e9 \u6211\u60f3"
    for family, folder in writers.items():
        llmkit.export(folder, tmp_path / family, format="gguf")
        theirs = llama_cpp.Llama(str(tmp_path / family / "model-F32.gguf"), n_ctx=64, type_k=0, type_v=0,
                                 flash_attn=False, n_threads=1, verbose=False)
        opened = models.open_model(folder)
        assert theirs.tokenize(text.encode(), special=True) == opened.tokenizer(text)["input_ids"]
        ids = opened.tokenizer("the cat saw", return_tensors="pt")
        model: Any = opened.model
        ours = model.generate(**ids, max_new_tokens=20, do_sample=False, eos_token_id=None)[0].tolist()
        written = theirs.generate(ids["input_ids"][0].tolist(), temp=0.0, repeat_penalty=1.0)
        assert [next(written) for _ in range(20)] == ours[-20:]


def test_an_onnx_file_that_says_something_else_is_not_left_behind(
    models_of_each_head: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmkit.exporting.formats import onnx

    def of_one_length(part: onnx.OnnxPart, path: Path) -> None:
        torch.onnx.export(part.network, part.sample(2, 7, 0), str(path), input_names=list(part.inputs), dynamo=False,
                          output_names=list(part.outputs), dynamic_axes={name: {0: "rows"} for name in part.inputs})

    def wrong(part: onnx.OnnxPart, path: Path) -> None:
        part.network.model.classifier.bias.data += 0.001
        traced(part, path)
        part.network.model.classifier.bias.data -= 0.001

    traced = onnx.trace
    monkeypatch.setattr(onnx, "trace", wrong)
    with pytest.raises(RequestError, match=r"differs from torch's output by 0\.00\d+ of the largest, more than 0.0001"):
        llmkit.export(models_of_each_head["label"], tmp_path / "out", format="onnx")
    monkeypatch.setattr(onnx, "trace", of_one_length)
    with pytest.raises(RequestError, match=r"onnxruntime doesn't take 1 rows of 1 tokens: .*Expected: 7"):
        llmkit.export(models_of_each_head["label"], tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "message"), [
    (["--format", "onx"], "no format is called 'onx'. Did you mean 'onnx'?"),
    (["--format", "onnx", "--dtype", "float16"], "--dtype float16: --format onnx has float32"),
    (["--dtype", "q8_0"], "--dtype q8_0: --format safetensors has float32, bfloat16, float16"),
    (["--private"], "--private says how --push-to-hub gives the model away"),
])
def test_what_can_not_be_asked_is_refused(
    words: list[str], message: str, models_of_each_head: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", str(models_of_each_head["label"]), "--to", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


def test_without_onnxruntime_the_extra_is_named(
    models_of_each_head: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmkit.exporting.formats import onnx

    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(RequestError, match=r"needs onnxruntime: pip install 'llmkit-train\[onnx\]'"):
        llmkit.export(models_of_each_head["label"], tmp_path / "out", format="onnx")


def test_xlnets_language_model_has_no_onnx_file(models_of_each_head: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="XLNet's language model takes an order of its own"):
        llmkit.export(models_of_each_head["permuted"], tmp_path / "out", format="onnx")


def test_weights_are_converted_where_a_dtype_is_named(models_of_each_head: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    done = llmkit.export(models_of_each_head["tags"], tmp_path / "out", dtype="float16")
    assert done["dtype"] == "float16"
    weights = load_file(tmp_path / "out" / "model.safetensors")
    ours = load_file(models_of_each_head["tags"] / "model.safetensors")
    assert {str(one.dtype) for one in weights.values()} == {"torch.float16"}
    assert all(torch.equal(weights[name], one.half()) for name, one in ours.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


def test_a_weight_that_16_bits_can_not_hold_is_refused(bodies: Body, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = bodies("bert", "AutoModelForMaskedLM")
    weights = load_file(folder / "model.safetensors")
    weights["cls.predictions.bias"][3] = 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match=r"a weight of 1e\+06 is more than it can hold; take bfloat16"):
        llmkit.export(folder, tmp_path / "out", dtype="float16")
    assert llmkit.export(folder, tmp_path / "out", dtype="bfloat16")["dtype"] == "bfloat16"


def test_a_runs_card_has_figures_beside_floors_and_no_path_of_this_machine(
    text: Path, labelled: Path, tmp_path: Path
) -> None:
    base = tmp_path / "my-base"
    fit(recipe.load(tiny("bert", text, base, max_steps=1)))
    asked = {**tiny("bert", labelled, tmp_path / "tagger"), "backbone": {"pretrained": str(base)},
             "task": "classification", "tuning": {"method": "lora"}}
    asked["data"]["validation"] = 0.25
    fit(recipe.load({key: value for key, value in asked.items() if key not in ("objective", "tokenizer")}))
    llmkit.export(tmp_path / "tagger", tmp_path / "given")
    for path in (tmp_path / "given").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert str(labelled.parent).encode() not in path.read_bytes(), path
    card = (tmp_path / "given" / "README.md").read_text()
    summary = json.loads((tmp_path / "tagger" / "summary.json").read_text())
    floor = summary["floors"]["majority class"]["accuracy"]
    row = next(line for line in card.splitlines() if line.startswith("| accuracy"))
    assert [cell.strip() for cell in row.split("|")][2:5] == [
        f"{one:.4f}" for one in (summary["evaluation_before"]["accuracy"], summary["evaluation"]["accuracy"], floor)]
    assert "| metric | before | after | floor: majority class |" in card
    assert "backbone `my-base`, task `classification`, tuning `lora`" in card
    assert "- data: `rows.csv`" in card
    given = yaml.safe_load((tmp_path / "given" / "recipe.yaml").read_text())
    own = yaml.safe_load((tmp_path / "tagger" / "recipe.yaml").read_text())
    assert given["data"]["train"][0]["source"] == "rows.csv"
    assert given["training"] == own["training"] and given["tuning"] == own["tuning"]


def test_the_licence_is_that_of_what_it_started_from(models_of_each_head: dict[str, Path], tmp_path: Path) -> None:
    from llmkit.exporting.origin import hub_id, licence_of, named

    shutil.copytree(models_of_each_head["label"], tmp_path / "gpt2")  # a folder isn't the catalogue's model of its name
    (tmp_path / "gpt2" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# mine\n")
    llmkit.export(tmp_path / "gpt2", tmp_path / "given")
    head, _, page = (tmp_path / "given" / "README.md").read_text().partition("# given")
    assert "license: cc-by-4.0" in head and "base_model" not in head
    assert "The licence of `gpt2` is cc-by-4.0." in page
    assert licence_of("gpt2") == "mit"
    cached = "/home/me/.cache/huggingface/hub/models--FacebookAI--roberta-base/snapshots/e2da8e2f"
    assert (hub_id(cached), licence_of(cached), named(cached)) == (
        "FacebookAI/roberta-base", "mit", "FacebookAI/roberta-base")


class Hub(ThreadingHTTPServer):
    """A hub on this machine: it takes what `upload_folder` sends of small files, and says what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.asked: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.made: dict[str, Any] = {}
        self.status = 200


class Asked(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers["Authorization"]))
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            answer = {"url": "https://huggingface.co/me/model", "name": "me/model", "id": "me/model"}
        elif self.path.endswith("/preupload/main"):
            answer = {"files": [{**one, "uploadMode": "regular", "shouldIgnore": False}
                                for one in json.loads(body)["files"]]}
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": "https://huggingface.co/me/model/commit/1", "commitOid": "1", "success": True}
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer if self.server.status == 200 else {"error": "you may not"}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    yield server
    server.shutdown()
    server.server_close()


def test_the_hub_gets_the_whole_folder_and_its_card_says_its_id(
    models_of_each_head: dict[str, Path], tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(models_of_each_head["label"]), "--to", str(tmp_path / "out"), "--push-to-hub", "me/model"]
    assert main([*words, "--private", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pushed"].endswith("/me/model")
    assert (hub.made["name"], hub.made["organization"], hub.made["visibility"]) == ("model", "me", "private")
    assert {token for _, token in hub.asked} == {"Bearer hf_mine"}
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert 'AutoTokenizer.from_pretrained("me/model")' in hub.files["README.md"].decode()


def test_what_the_hub_refuses_stays_whole_here(
    models_of_each_head: dict[str, Path], tmp_path: Path, hub: Hub
) -> None:
    hub.status = 403
    with pytest.raises(PlaceError, match=r"me/model: not uploaded: .*is whole; `hf upload me/model"):
        llmkit.export(models_of_each_head["label"], tmp_path / "out", push_to_hub="me/model")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(("name", "variables", "message"), [
    ("me/model", {"HF_HUB_OFFLINE": "1"}, "switched off by HF_HUB_OFFLINE"),
    ("me/model", {"HF_TOKEN": ""}, "there is no token: `hf auth login`"),
    ("model", {}, "an id is OWNER/NAME, as in me/model"),
    ("me/my model", {}, "Repo id must"),
])
def test_an_upload_that_can_not_be_is_refused_before_anything_is_written(
    name: str, variables: dict[str, str], message: str, models_of_each_head: dict[str, Path], tmp_path: Path, hub: Hub,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    words = ["export", str(models_of_each_head["label"]), "--to", str(tmp_path / "out"), "--push-to-hub", name]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert hub.asked == [] and list(tmp_path.iterdir()) == []


def test_a_model_without_an_adapter_is_copied_as_it_is(text: Path, tmp_path: Path) -> None:
    fit(recipe.load(tiny("gpt2", text, tmp_path / "run", max_steps=1)))
    assert llmkit.export(tmp_path / "run", tmp_path / "out")["merged"] is None
    whole = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "recipe.yaml", *(path.name for path in (tmp_path / "run" / "model").iterdir())}
    assert models.merge(tmp_path / "run").folder == tmp_path / "run" / "model"


def test_a_prefix_is_refused_with_what_to_do_instead(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tune("bert", "prefix", "classification", num_virtual_tokens=4)
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "virtual tokens can't be merged into weights. Give away the adapter's folder" in said
    assert not (tmp_path / "out").exists()


def test_what_peft_can_not_merge_is_refused(tune: Tune, tmp_path: Path) -> None:
    run = tune("bert", "peft", "classification", peft_type="LILY")
    with pytest.raises(RequestError, match="can't be merged: This method is not supported for Lily"):
        llmkit.export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_tied_to_the_embeddings_is_not_merged_wrongly(tune: Tune, tmp_path: Path) -> None:
    run = tune("gpt2", "lora", target_modules=["lm_head", "c_attn"])
    with pytest.raises(RequestError, match="merged, the model would say something else"):
        llmkit.export(run, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(text: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PlaceError, match="holds something already"):
        llmkit.export(text, tmp_path / "out")


def test_the_command_prints_one_document(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(recipe.load(tiny("bert", text, tmp_path / "run", max_steps=1)))
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"folder": str(tmp_path / "out"), "format": "safetensors", "class": "AutoModelForMaskedLM",
                     "dtype": "float32", "merged": None, "base": None, "from": str(tmp_path / "run")}


def test_a_format_is_a_file_of_the_folder_formats() -> None:
    from llmkit.exporting import FORMATS

    assert FORMATS == ("word2vec", "safetensors", "onnx", "gguf")
