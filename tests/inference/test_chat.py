"""A conversation: what the model reads in each turn, what it forgets, and what a person can type."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from test_generate import WORDS, save
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llmkit import recipe
from llmkit.cli import chat as terminal
from llmkit.cli import main
from llmkit.inference.writing.chat import USUAL, Chat
from llmkit.inference.writing.options import Options
from llmkit.system.errors import DataError, PlaceError, RequestError
from llmkit.training.fit import fit

TEMPLATE = ("{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A decoder of 48 positions with a chat template, `user the cat assistant`, that never ends by itself."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS) + 2, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=48, bos_token_id=1, eos_token_id=1, initializer_range=0.5))
    model.lm_head.weight.data[:4] = 0  # neither the special tokens nor who speaks
    folder = save(model, tmp_path_factory.mktemp("llama"), TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["system", "assistant"])
    tokenizer.save_pretrained(folder)
    return folder


def opened(model: str, **options: Any) -> Chat:
    return Chat.open(model, Options(**{"max_new_tokens": 5, **options}))


def plainly(model: str, prompt: str, tokens: int = 5) -> str:
    """What transformers' own greedy search writes after a prompt."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    out = AutoModelForCausalLM.from_pretrained(model).eval().generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


# ---- what the model reads ----

def test_each_answer_is_what_transformers_writes_after_the_whole_conversation(llama):
    chat = opened(llama)
    chat.instruct("sea")
    prompt = "system sea"
    for said in ("the cat sat", "a dog", "red house by sea"):
        prompt += f" user {said} assistant"
        pieces: list[str] = []
        made = chat.say(said, pieces.append)
        assert made.text == plainly(llama, prompt) == "".join(pieces) != ""
        prompt += f" {made.text}"
    assert [turn["role"] for turn in chat.messages] == ["system", *["user", "assistant"] * 3]


@pytest.mark.parametrize("forward", ["written out", "transformers"])
def test_what_was_read_before_is_not_read_again(llama, forward):
    chat = opened(llama)
    if forward == "transformers":
        chat.writer.decoder = None
    read: list[int] = []
    chat.writer.opened.model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: read.append(given[0].numel()))
    chat.say("the cat sat on a mat")
    assert read == [8, 1, 1, 1, 1]
    read.clear()
    chat.say("a dog")
    assert read == [5, 1, 1, 1, 1]  # the fifth word of its answer, and `user a dog assistant`
    read.clear()
    chat.retry()
    assert read == [1, 1, 1, 1, 1]
    chat.reset()
    read.clear()
    chat.say("the dog sat")
    assert read == [3, 1, 1, 1, 1]  # of `user the dog sat assistant`, the first two words were known


def test_the_oldest_turns_go_when_the_context_is_full_and_the_system_prompt_stays(llama):
    chat = opened(llama, max_new_tokens=4)
    chat.instruct("red house")
    starts = []
    for _ in range(6):
        chat.say("the cat sat on a mat and dog")
        starts.append(chat.start)
    assert starts == [0, 0, 0, 2, 4, 6]
    ids = chat.writer.opened.tokenizer.decode(chat.fitting())
    assert ids.startswith("system red house user the cat")
    assert len(chat.turns) == 12


def test_what_does_not_fit_even_alone_is_not_said(llama):
    chat = opened(llama)
    chat.say("the cat")
    before = list(chat.turns)
    with pytest.raises(RequestError, match="62 tokens are 15 more than the 47"):
        chat.say("cat " * 60)
    assert chat.turns == before
    chat.start = 0
    assert chat.say("a dog").text


def test_another_try_draws_another_answer_and_replaces_the_last(llama):
    chat = opened(llama)
    first = chat.say("the cat").text
    others = {chat.retry().text for _ in range(8)}
    assert others - {first}
    assert len(chat.turns) == 2
    with pytest.raises(RequestError, match="nothing was said"):
        opened(llama).retry()


def test_with_a_seed_tries_differ_and_repeat(llama):
    def tries() -> list[str]:
        chat = opened(llama, temperature=2.0, seed=3)
        return [chat.say("the cat").text, chat.retry().text, chat.retry().text]

    assert tries() == tries()
    assert len(set(tries())) > 1


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_went(llama):
    chat = opened(llama)
    pieces: list[str] = []
    made = chat.say("the cat", pieces.append, lambda: len(pieces) >= 2)
    assert made.finish_reason == "stopped"
    assert made.text == " ".join(plainly(llama, "user the cat assistant").split()[: made.tokens]) and made.tokens < 5
    assert chat.turns[-1] == {"role": "assistant", "content": made.text}


def test_a_run_of_instruction_without_a_template_reads_what_it_learned_from(asked, tmp_path):
    tree = tiny("gpt2", asked, tmp_path / "run", max_steps=3)
    del tree["objective"]
    tree["seed"] = 3  # a seed with which it says something
    tree["task"] = {"name": "instruction", "template": "Q: {prompt} A: "}
    fit(recipe.load(tree))
    run = str(tmp_path / "run")
    chat = opened(run)
    tokenizer = AutoTokenizer.from_pretrained(f"{run}/model")
    first = chat.say("what did the cat do ?").text
    assert tokenizer.decode(chat.writer.opened.tokenizer("Q: what did the cat do ? A: ")["input_ids"]) == (
        "Q: what did the cat do ? A: ")
    assert first == plainly(f"{run}/model", "Q: what did the cat do ? A: ")
    kept = chat.turns[-1]["content"]
    assert tokenizer.decode(chat._ids([*chat.turns, {"role": "user", "content": "who ?"}])).endswith(
        f"A: {kept}{tokenizer.eos_token}Q: who ? A: ")


def test_an_encoder_decoder_that_learned_to_answer_reads_all_that_was_said(asked, tmp_path):
    tree = tiny("t5", asked, tmp_path / "run", max_steps=3)
    del tree["objective"]
    tree["task"] = {"name": "instruction"}
    fit(recipe.load(tree))
    chat = opened(str(tmp_path / "run"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "model").eval()
    chat.turns = [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "the cat"}]
    made = chat.say("what did the cat do ?")
    first, said, second = (tokenizer(text, add_special_tokens=False)["input_ids"]
                           for text in ("who ?\n", "the cat", "what did the cat do ?\n"))
    ids = torch.tensor([[*first, *said, 1, *second, 1]])
    assert tokenizer.eos_token_id == 1
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert made.text == tokenizer.decode(out[0], skip_special_tokens=True)


def test_a_model_that_was_made_for_no_conversation_is_refused(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), hidden_size=8, intermediate_size=8,
                                         num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(RequestError, match=r"has no chat template.*llmkit generate.*--task instruction"):
        Chat.open(save(model, tmp_path), USUAL)


# ---- settings and files ----

def test_settings_are_read_as_what_they_are(llama):
    chat = opened(llama)
    chat.set("temperature", "0.7")
    chat.set("top_k", "3")
    chat.set("stop", "mat")
    assert (chat.options.temperature, chat.options.top_k, chat.options.stop) == (0.7, 3, ("mat",))
    assert chat.settings()["temperature"] == 0.7
    chat.set("temperature", "default")
    assert chat.options.temperature is None
    for name, value, message in (("temprature", "1", "Did you mean 'temperature'"), ("top_k", "many", "top_k: 'many'"),
                                 ("top_p", "7", "top_p: 7"), ("logprobs", "1", "no setting is called 'logprobs'")):
        with pytest.raises(RequestError, match=message):
            chat.set(name, value)


def test_a_conversation_is_saved_and_gone_on_with(llama, tmp_path):
    chat = opened(llama)
    chat.instruct("sea")
    chat.say("the cat")
    path = tmp_path / "talk.json"
    chat.save(str(path))
    assert json.loads(path.read_text()) == chat.messages
    chat.save(str(path))
    other = opened(llama)
    other.load(str(path))
    assert other.messages == chat.messages
    assert other.say("a dog").text == chat.say("a dog").text
    other.save(str(path))
    with pytest.raises(PlaceError, match="is there already"):
        opened(llama).save(str(path))
    for text, message in (("{", "is no JSON"), ("[]", "must be a list of messages"),
                          ('[{"role": "cat"}]', "its role is 'cat'")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            other.load(str(path))
    assert other.turns


# ---- through a pipe ----

def piped(monkeypatch: pytest.MonkeyPatch, text: str, *words: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    return main(["chat", *words])


def test_a_line_a_turn_goes_in_and_answers_come_out(llama, monkeypatch, capsys):
    status = piped(monkeypatch, "the cat\n\n/set max_new_tokens 3\na \\\ndog\n/exit\nsea\n", "--model", llama,
                   "--max-new-tokens", "5")
    told = capsys.readouterr()
    first = plainly(llama, "user the cat assistant")
    second = plainly(llama, f"user the cat assistant {first} user a dog assistant", 3)
    assert status == 0
    assert told.out == f"{first}\n{second}\n"
    assert "max_new_tokens 3" in told.err


def test_the_whole_conversation_is_one_json_document(llama, monkeypatch, capsys, tmp_path):
    saved = tmp_path / "talk.json"
    assert piped(monkeypatch, f"the cat\n//dog\n/save {saved}\n", "--model", llama, "--system", "sea", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["messages"] == json.loads(saved.read_text())
    assert [turn["content"] for turn in told["messages"]][:2] == ["sea", "the cat"]
    assert told["messages"][3] == {"role": "user", "content": "/dog"}


def test_the_first_mistake_ends_a_pipe(llama, monkeypatch, capsys):
    assert piped(monkeypatch, "/rest\nthe cat\n", "--model", llama) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no command is called /rest. Did you mean '/reset'?" in told.err
    assert piped(monkeypatch, "", "--model", llama, "--load", "nowhere.json") == 3


# ---- at a terminal ----

def at_terminal(chat: Chat, keys: str, monkeypatch: pytest.MonkeyPatch, history: bool = False) -> None:
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text(keys)
        terminal.in_terminal(chat, history)


def test_lines_are_sent_by_enter_and_parted_by_alt_enter_a_backslash_or_a_paste(llama, monkeypatch, capsys):
    chat = opened(llama)
    at_terminal(chat, "the cat\r" "a\x1b\rdog\r" "red\\\rhouse\r" "\x1b[200~by\nsea\x1b[201~\r" "/exit\r", monkeypatch)
    assert [turn["content"] for turn in chat.turns[::2]] == ["the cat", "a\ndog", "red\nhouse", "by\nsea"]
    answers = [turn["content"] for turn in chat.turns[1::2]]
    assert capsys.readouterr().out == "".join(f"{answer}\n\n" for answer in answers)


def test_a_mistake_is_told_and_the_conversation_goes_on(llama, monkeypatch, capsys):
    chat = opened(llama)
    at_terminal(chat, "/nothing\r/set\r/set top_p 3\r/load no.json\rthe cat\r\x04", monkeypatch)
    told = capsys.readouterr()
    assert len(chat.turns) == 2
    for part in ("no command is called /nothing", "max_new_tokens 5", "top_p: 3", "no.json: No such file"):
        assert part in told.err


def test_ctrl_c_empties_the_line_and_twice_on_an_empty_one_ends(llama, monkeypatch, capsys):
    chat = opened(llama)
    at_terminal(chat, "a dog\x03the cat\r\x03sea\r\x03\x03not read\r", monkeypatch)
    assert [turn["content"] for turn in chat.turns[::2]] == ["the cat", "sea"]
    assert capsys.readouterr().err.count("Ctrl-C again, or Ctrl-D, ends.") == 2


def test_ctrl_c_stops_the_answer_and_not_the_program(llama, monkeypatch, capsys):
    chat = opened(llama, max_new_tokens=20)
    write = terminal._Printer.__call__

    def interrupted(self: Any, piece: str) -> None:
        write(self, piece)
        if len(chat.turns) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(terminal._Printer, "__call__", interrupted)
    at_terminal(chat, "the cat\ra dog\r/exit\r", monkeypatch)
    assert len(chat.turns[1]["content"].split()) == 1
    assert len(chat.turns[3]["content"].split()) > 1
    assert "stopped; /retry asks again" in capsys.readouterr().err


def test_what_is_typed_is_kept_for_the_next_time_for_its_owner_alone(llama, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path))
    chat = opened(llama)
    at_terminal(chat, "the cat\r/exit\r", monkeypatch, history=True)
    path = Path(tmp_path / "chat-history")
    assert "+the cat" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    at_terminal(chat, "\x1b[A\x1b[A\r/exit\r", monkeypatch, history=True)  # up, past /exit
    assert [turn["content"] for turn in chat.turns[::2]] == ["the cat", "the cat"]


def test_lines_break_between_words_as_they_come(capsys):
    page = terminal._Page(10, len)
    for piece in ("  one", " two thr", "ee", " four five", " sixsevene", "ightnine", "."):
        page(piece)
    page.end()
    assert capsys.readouterr().out == "one two \nthree four\nfive \nsixseveneightnine."
    page = terminal._Page(10, lambda text: 2 * len(text))  # Chinese
    page("你好")
    assert capsys.readouterr().out == "你好"
