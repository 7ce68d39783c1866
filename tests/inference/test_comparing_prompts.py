"""Many prompts: from a file or a pipe, answered in batches, in their order, and checked before the first is."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_generate import TEMPLATE, WORDS, save, words
from transformers import GPT2Config, GPT2LMHeadModel

from llmkit.cli import main
from llmkit.inference import generate as generation
from llmkit.inference.generate import Options, ReadPrompt, Result, generate, in_batches

TEXTS = ["the cat", "a small red house by sea", "dog", "the cat sat on a mat and dog ran to its house", "by sea"] * 7


@pytest.fixture
def gpt2(tmp_path):
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=24, n_embd=16, n_layer=1, n_head=2, bos_token_id=1,
                        eos_token_id=1, initializer_range=0.5)
    return save(GPT2LMHeadModel(config), tmp_path / "gpt2", TEMPLATE)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(model: str, source: str | Path, out: Path, *more: str) -> int:
    return main(["generate", "--model", model, "--input", str(source), "-o", str(out), "--max-new-tokens", "6", *more])


def test_each_line_of_a_text_is_a_prompt_and_the_order_is_kept(gpt2, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n\n".join(TEXTS) + "\n")
    assert run(gpt2, tmp_path / "in.txt", tmp_path / "out.jsonl", "--batch-size", "3") == 0
    made = lines(tmp_path / "out.jsonl")
    assert [one["prompt"] for one in made] == TEXTS
    alone = {text: generate(text, gpt2, Options(max_new_tokens=6)).completions[0].text for text in set(TEXTS)}
    assert [one["completions"][0]["text"] for one in made] == [alone[text] for text in TEXTS]
    assert all(one["completions"][0]["score"] < 0 for one in made)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"opening {gpt2} …\n35 prompts, ")


def test_a_row_has_a_prompt_messages_or_a_text(gpt2, tmp_path):
    talk = [{"role": who, "content": text} for who, text in (("user", "the cat"), ("model", "sat"), ("user", "dog"))]
    rows = [{"prompt": "the cat"}, {"messages": talk}, {"text": "the cat", "id": 3}, {"prompt": talk}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(gpt2, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 0
    made = lines(tmp_path / "out.jsonl")
    assert [one["prompt"] for one in made] == ["the cat", talk, "the cat", talk]
    ids = words()("user the cat model sat user dog model", return_tensors="pt").input_ids
    out = GPT2LMHeadModel.from_pretrained(gpt2).eval().generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert made[1]["completions"] == made[3]["completions"]
    assert made[1]["completions"][0]["text"] == words().decode(out[0, ids.shape[1]:], skip_special_tokens=True)
    assert made[0]["completions"] == made[2]["completions"]


def test_a_seeded_file_gives_the_same_texts_whatever_the_batches(gpt2, tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    for size in (1, 4, 50):
        assert run(gpt2, tmp_path / "in.txt", tmp_path / f"{size}.jsonl", "--batch-size", str(size), "--seed", "5",
                   "--temperature", "1.3", "--num-return-sequences", "2") == 0
    made = [[[one["text"] for one in row["completions"]] for row in lines(tmp_path / f"{size}.jsonl")]
            for size in (1, 4, 50)]
    assert made[0] == made[1] == made[2]
    assert len({text for some in made[0] for text in some}) > 30
    first = generate(TEXTS[0], gpt2, Options(max_new_tokens=6, seed=5, temperature=1.3)).completions[0].text
    assert made[0][0][0] == first


def test_a_pipe_is_read_as_lines_or_rows_and_stdout_takes_the_answers(gpt2, capsys, monkeypatch):
    for piped in (b"the cat\nby sea\n", b'{"prompt": "the cat"}\n{"text": "by sea"}\n'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        assert main(["generate", "--model", gpt2, "--input", "-", "--max-new-tokens", "2"]) == 0
        said = capsys.readouterr()
        assert [json.loads(line)["prompt"] for line in said.out.splitlines()] == ["the cat", "by sea"]
        assert said.err == f"opening {gpt2} …\n"


def test_json_tells_of_the_whole_file(gpt2, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("the cat\nby sea\n")
    assert run(gpt2, tmp_path / "in.txt", tmp_path / "out.jsonl", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["prompts"] == 2
    assert told["tokens"] == sum(row["completions"][0]["tokens"] for row in lines(tmp_path / "out.jsonl"))


@pytest.mark.parametrize(("content", "said"), [
    ('{"prompt": "the"}\n{"promt": "x"}\n', "in.jsonl:2: a row needs a field prompt, messages or text; this one has p"),
    ('{"prompt": "the"}\n{"prompt": null}\n', "in.jsonl:2: prompt must be text, not None"),
    ('{"prompt": "the"}\n{"messages": "the"}\n', "in.jsonl:2: messages must be a list of messages, not 'the'"),
    ('{"prompt": "the"}\n{"messages": []}\n', "in.jsonl:2: messages: there is none"),
    ('{"prompt": "the"}\n\n{"messages": [{"content": "x"}]}\n', "in.jsonl:3: messages: number 1 must be"),
    ('{"prompt": "the"}\n{"prompt": }\n', "in.jsonl:2: bad JSON"),
    ('{"prompt": "the"}\n' + json.dumps({"prompt": "cat " * 40}) + "\n",
     "in.jsonl:2: the prompt's 42 tokens are 19 more than the 23"),
    ("", "in.jsonl: is empty"),
])
def test_a_bad_row_is_told_by_file_and_line_and_the_output_stays_as_it_was(gpt2, tmp_path, capsys, content, said):
    (tmp_path / "in.jsonl").write_text(content)
    (tmp_path / "out.jsonl").write_text("before\n")
    assert run(gpt2, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 3
    assert (tmp_path / "out.jsonl").read_text() == "before\n"
    assert said in capsys.readouterr().err


def test_a_line_of_a_pipe_is_told_as_one(gpt2, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a"}\n{"x": 1}\n')))
    assert run(gpt2, "-", tmp_path / "out.jsonl") == 3
    assert "error: stdin:2: a row needs" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "status", "said"), [
    (["the cat", "--input", "in.txt"], 2, "a PROMPT and --input are two requests"),
    (["the cat", "-o", "out.jsonl"], 2, "is for the answers to --input"),
    (["--input", "in.txt", "--json"], 2, "lines of JSON already"),
    (["--input", "in.txt", "-o", "in.txt"], 2, "is the file that the prompts are in"),
    (["--input", "in.txt", "-o", "no/out.jsonl"], 6, "its folder does not exist"),
    (["--input", "nope.txt"], 3, "nope.txt: no such file"),
    (["--input", "nope.txt", "-o", "in.txt"], 3, "nope.txt: no such file"),
    (["the cat", "--logprobs", "2"], 2, "is told in JSON"),
    (["the cat", "--dtype", "float31"], 2, "Did you mean 'float32'?"),
    (["the cat", "--batch-size", "0"], 2, "--batch-size 0"),
    (["the cat", "--num-beams", "2", "--assistant", "{model}"], 2, "num_beams: an assistant guesses for one text"),
])
def test_requests_that_cannot_work_are_refused(gpt2, tmp_path, capsys, monkeypatch, words, status, said):
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("the cat\n")
    assert main(["generate", "--model", gpt2, *(word.format(model=gpt2) for word in words)]) == status
    assert said in capsys.readouterr().err
    assert Path("in.txt").read_text() == "the cat\n"
    assert not Path("out.jsonl").exists()


def test_ten_thousand_prompts_are_held_a_window_at_a_time():
    taken, given, most, batches = 0, 0, 0, []

    def asked() -> Iterator[ReadPrompt]:
        nonlocal taken, most
        for number in range(10_000):
            taken += 1
            most = max(most, taken - given)
            yield ReadPrompt(str(number), [0] * (number * 7919 % 31 + 1), number)

    def answers(some: list[ReadPrompt]) -> list[Result]:
        batches.append([len(one.ids) for one in some])
        return [Result(one.prompt, "none", []) for one in some]

    for number, result in enumerate(in_batches(asked(), answers, 8)):
        assert result.prompt == str(number)
        given += 1
    assert (given, most) == (10_000, 8 * generation.WINDOW)
    assert max(map(len, batches)) == 8
    assert sum(max(batch) * len(batch) - sum(batch) for batch in batches) < 0.1 * sum(map(sum, batches))


def test_a_stop_string_of_the_command_line_may_be_the_end_of_a_line(gpt2, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(generation, "generate", lambda prompt, model, options, **_: seen.append(options) or 1 / 0)
    main(["generate", "the cat", "--model", gpt2, "--stop", r"\n", "--stop", "cat", "--temperature", "0"])
    assert (seen[0].stop, seen[0].temperature) == (("\n", "cat"), 0)
