"""The agent of examples/: its tools, and its loops against the real server, with a model that learned what to say."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as token_models
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pytest.importorskip("uvicorn", reason="the server's libraries aren't installed: pip install 'llmkit-train[serve]'")
pytest.importorskip("openai", reason="openai isn't installed: pip install openai")
from conftest import write_rows
from served import Server

from llmkit.inference.search import Searcher

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import agent


def call(name: str, **arguments: str) -> str:
    return f'<tool_call>{json.dumps({"name": name, "arguments": arguments})}</tool_call>'


LEARNED = {
    "own 17?": [call("calculator", input="23 * 17")],
    "own 391": ["23", "*", "17", "is", "391"],
    "own zero?": [call("calculator", input="1 / 0")],
    "own zero": ["nothing", "is"],
    "own forever?": [call("calculator", input="7")],
    "own 7": [call("calculator", input="7")],
    "plain 17?": [call("calculator", input="23 * 17")],
    "plain </tool_response>": ["so", "it", "is", "391"],
    # smolagents requires a call: its first words are put in the model's mouth
    "smol 17?": ["<tool_call>", '{"name":', '"', 'calculator", "arguments": {"input": "23 * 17"}}</tool_call>'],
    "smol 391": ["<tool_call>", '{"name":', '"', 'final_answer", "arguments": {"answer": "391"}}</tool_call>'],
}
"""What is said after a conversation. The template makes two words of it: whose tools there are, and what came last."""
TEMPLATE = ("{% if not tools %}plain"
            "{% elif tools | selectattr('function.name', 'equalto', 'final_answer') | list %}smol"
            "{% else %}own{% endif %} {{ messages[-1]['content'].split()[-1] }}"
            "{% if add_generation_prompt %} model{% endif %}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves a Llama with a word a token, a call being one word."""
    place = tmp_path_factory.mktemp("agent")
    words = ["<pad>", "<end>", "model", *dict.fromkeys(
        word for asked, said in LEARNED.items() for word in [*asked.split(), *said])]
    inner = Tokenizer(token_models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>",
                                        unk_token="<pad>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, eos_token_id=1, pad_token_id=0))
    rows = [[words.index(word) for word in [*asked.split(), "model", *said, "<end>"]]
            for asked, said in LEARNED.items()]
    ids = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])  # (conversations, longest)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(place / "caller")
    tokenizer.save_pretrained(place / "caller")
    one = Server([str(place / "caller")], place / "said.log")
    yield one
    one.stop()


def ask(server: Server, capsys: pytest.CaptureFixture[str], question: str, *options: str) -> tuple[int, str, str]:
    status = agent.main([question, "--base-url", f"{server.url}/v1", "--model", "caller", *options])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_call_is_carried_out_and_its_result_becomes_the_answer(server, capsys):
    assert ask(server, capsys, "What is 23 * 17?") == (
        0, "23 * 17 is 391\n", 'calculator({"input": "23 * 17"}) -> 391\n')


def test_calls_can_be_plain_text(server, capsys):
    assert ask(server, capsys, "What is 23 * 17?", "--plain") == (
        0, "so it is 391\n", 'calculator({"input": "23 * 17"}) -> 391\n')


def test_smolagents_uses_the_same_tools(server, capsys):
    pytest.importorskip("smolagents", reason="smolagents isn't installed: pip install smolagents")
    status, said, _ = ask(server, capsys, "What is 23 * 17?", "--smolagents")
    assert status == 0 and "calculator" in said and said.endswith("391\n"), said


def test_a_tools_error_is_told_to_the_model(server, capsys):
    assert ask(server, capsys, "What is one by zero?") == (
        0, "nothing is\n", 'calculator({"input": "1 / 0"}) -> error: division by zero\n')


def test_a_model_that_only_calls_is_stopped(server, capsys):
    status, said, told = ask(server, capsys, "How long is forever?", "--turns", "3")
    assert (status, said) == (1, "")
    assert told.splitlines() == ['calculator({"input": "7"}) -> 7'] * 3 + ["agent: no answer in 3 turns"]


def test_the_search_gives_the_closest_passages(encoder, tmp_path, monkeypatch):
    docs = write_rows(tmp_path / "docs.jsonl", [
        {"title": "cat", "text": "the cat saw the moon ."}, {"title": "dog", "text": "a dog chased a hat ."}])
    monkeypatch.setattr(agent, "docs", lambda: Searcher.open(docs, str(encoder)))
    assert agent.use("search", '{"input": "dog a dog chased a hat ."}') == (
        "dog: a dog chased a hat .\ncat: the cat saw the moon .")
    assert agent.use("search", '{"input": " "}').startswith("error: the query is empty")


@pytest.mark.parametrize(("asked", "given"), [
    ("3 * (4 + 5)", "27"), ("2**10", "1024"), ("-7 // 2", "-4"), ("7 % 4 - 0.5", "2.5"), (" 1 / 8", "0.125"),
    ("9 ** 9 ** 9", "error: the power is too large"),
    ("1 / 0", "error: division by zero"),
    ("2 ^ 3", "error: only numbers with + - * / // % ** are worked out, not '2 ^ 3'"),
    ("__import__('os').getcwd()",
     "error: only numbers with + - * / // % ** are worked out, not \"__import__('os').getcwd()\""),
    ("1" * 201, "error: the expression is longer than 200 characters"),
])
def test_the_calculator_works_out_numbers_and_nothing_else(asked, given):
    assert agent.use("calculator", json.dumps({"input": asked})) == given


def test_a_call_that_cannot_be_carried_out_says_why():
    assert agent.use("calc", "{}") == "error: there is no tool 'calc', only search, calculator"
    assert agent.use("calculator", "{").startswith("error: Expecting property name")
    assert agent.use("calculator", '{"expression": "1"}').startswith("error: calculator() got an unexpected keyword")
