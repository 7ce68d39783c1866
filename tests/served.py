"""Tiny models that can be served, and a server in a process of its own.

Each test session loads this module, also that of a single file: what is heavy is imported where it is used.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Child

if TYPE_CHECKING:
    from openai import OpenAI
    from transformers import PreTrainedTokenizerFast

TEMPLATE = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
GREETING = "Hello there, 你好 — how are you?"
CALL = '<tool_call>{"name": "add", "arguments": {"a": 17, "b": 25}}</tool_call>'
TALKS = {"hi": GREETING, "17 + 25": CALL}
"""What the model was trained to answer."""


def letters() -> PreTrainedTokenizerFast:
    """A token a byte, so that a Chinese character takes three."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({one: i for i, one in enumerate([*SPECIAL, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|pad|>", eos_token="<|end|>",
        extra_special_tokens=SPECIAL[2:], chat_template=TEMPLATE, clean_up_tokenization_spaces=False)


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that has learned its two answers by heart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = letters()
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=1, pad_token_id=0))
    rows = [tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], return_dict=True)["input_ids"]
        for asked, answer in TALKS.items()]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        loss = model(ids, labels=ids.masked_fill(ids == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    folder = tmp_path_factory.mktemp("models") / "chatty"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 that knows no template and doesn't come to an end."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    tokenizer = letters()
    tokenizer.chat_template = None
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=16384, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=1,
        initializer_range=0.3))
    model.transformer.wte.weight.data[: len(SPECIAL)] = 0  # its end's logit is 0, and 50 others are above
    folder = tmp_path_factory.mktemp("models") / "endless"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Server:
    """`llmkit serve` in a process of its own, and a client of it."""

    def __init__(
        self, words: list[str], said: Path, act: Callable[[], int] | None = None, **variables: str,
    ) -> None:
        self.child = Child(["serve", *words, "--port", "0"], said, act, **variables)
        deadline = time.monotonic() + 60
        while not (found := re.search(r"listening on (http://\S+):", said.read_text() if said.exists() else "")):
            assert self.child.poll() is None, said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.url = found[1]
        self.said = said
        self.key = "none"

    @property
    def client(self) -> OpenAI:
        """A new one each time: a server that is forked later shares the connections of older ones, which then stay."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=30)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        if self.child.poll() is None:
            os.kill(self.child.pid, signal.SIGKILL)

    def stop(self, by: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        os.kill(self.child.pid, by)
        return self.child.wait(20)


def limited(models: list[Path], said: Path, files: int | None = None, **limits: Any) -> Server:
    """A server with limits that have no option, in a process that may open so many files."""
    from llmkit.serving.requests import Limits
    from llmkit.serving.server import serve
    from llmkit.system import report

    def act() -> int:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        report.to_stderr()
        serve([str(model) for model in models], port=0, limits=Limits(**limits),
              ready=lambda address, writes: print(f"listening on {address}: ready", file=sys.stderr, flush=True))
        return 0

    return Server([], said, act)


@pytest.fixture(scope="module")
def server(chatty: Path, endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models, four places, four that may wait."""
    said = tmp_path_factory.mktemp("server") / "said.log"
    limits = ["--max-concurrent", "4", "--queue", "4", "--max-new-tokens", "16000"]
    with Server([str(chatty), str(endless), *limits], said) as one:
        yield one
        assert one.stop() == 0
