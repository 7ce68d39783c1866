"""A stranger's folder whose fields are of another kind, or whose tokenizer is another model's: told in one line."""

import json
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import tiny
from safetensors.torch import save_file

from llmkit import recipe
from llmkit.cli import main
from llmkit.data.tokenizer_files import load
from llmkit.models import open_model
from llmkit.models.checking.adapters import config_for
from llmkit.models.checking.weighing import check_rows
from llmkit.system.errors import CheckpointError
from llmkit.training.fit import fit
from reliability.strangers import change


@pytest.fixture(scope="module")
def trained(text, labelled, tmp_path_factory):
    """A tiny GPT-2 and a classifier over it."""
    folder = tmp_path_factory.mktemp("runs")
    fit(recipe.load(tiny("gpt2", text, folder / "gpt2", max_steps=1)))
    tree = tiny("gpt2", labelled, folder / "classifier", max_steps=1)
    del tree["objective"]
    fit(recipe.load({**tree, "task": "classification"}))
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """`copied("gpt2")`: the model's folder, to spoil."""
    return lambda name: Path(shutil.copytree(trained / name / "model", tmp_path / "spoiled"))


GENERATE = ("generate", "the cat", "--max-new-tokens", "2", "--model")
CLASSIFY = ("classify", "the cat", "--model")
SHOWN = {
    "list-of-labels": ("classifier", {"id2label": ["a", "b"]}, CLASSIFY, 2, "id2label is ['a', 'b']; it is an object"),
    "no-label": ("classifier", {"id2label": {"0": None, "1": "b"}}, CLASSIFY, 2, "id2label.0 is None; a label is a "),
    "object-label": ("classifier", {"id2label": {"0": "a", "1": {}}}, CLASSIFY, 2, "id2label.1 is {}; a label is a"),
    "architectures": ("gpt2", {"architectures": 5}, GENERATE, 2, "architectures is 5; it is a list of names"),
    "numbers-of-labels": ("classifier", {"id2label": {"5": "a", "6": "b"}}, CLASSIFY, 2, "id2label.5 is a; the numbers "
                          "of 2 labels are 0 to 1"),
    "problem": ("classifier", {"problem_type": "foo"}, CLASSIFY, 2, "problem_type is foo; it is one of regression, "),
    "backbone": ("gpt2", {"model_type": "detr", "backbone": "owner/name", "use_pretrained_backbone": True}, GENERATE,
                 2, "backbone is owner/name; a model that is made of another one's files isn't opened"),
}


@pytest.mark.parametrize("case", SHOWN)
def test_a_field_of_another_kind_is_named(case, copied, capsys):
    name, fields, words, status, error = SHOWN[case]
    folder = copied(name)
    change(folder / "config.json", **fields)
    assert main([*words, str(folder)]) == status
    assert f"llmkit: error: {folder}/config.json can't be used: {error}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [GENERATE, ("generate", "the cat", "--num-beams", "2", "--max-new-tokens", "2",
                                              "--model")], ids=["greedy", "beams"])
@pytest.mark.parametrize(("fields", "error"), [
    ({"repetition_penalty": 0}, "repetition_penalty is 0; it is a number above 0"),
    ({"encoder_repetition_penalty": "x"}, "encoder_repetition_penalty is x; it is a number above 0"),
    ({"sequence_bias": [[[10**9], 5.0]]}, "the following tokens were being biased: [1000000000]"),
    ({"no_repeat_ngram_size": "x"}, "")], ids=["penalty", "word", "bias", "ngram"])
def test_what_no_model_writes_by_is_told_before_it_writes(fields, error, words, copied, capsys):
    folder = copied("gpt2")
    change(folder / "generation_config.json", **fields)
    assert main([*words, str(folder)]) in (2, 4)
    said = capsys.readouterr().err
    assert "unforeseen" not in said
    assert f"llmkit: error: {folder}" in said
    assert error in said


@pytest.mark.parametrize("beams", ["1", "2"])
def test_stop_strings_of_a_models_own_end_its_texts(beams, copied, capsys):
    folder = copied("gpt2")
    words = ["generate", "the cat", "--json", "--max-new-tokens", "12", "--num-beams", beams, "--model", str(folder)]
    assert main(words) == 0
    whole = json.loads(capsys.readouterr().out)["completions"][0]["text"]
    stop = next(a + b for a, b in pairwise(whole) if (a + b).isascii())
    change(folder / "generation_config.json", stop_strings=[stop])
    assert main(words) == 0
    cut = json.loads(capsys.readouterr().out)["completions"][0]
    assert stop not in cut["text"]  # of beams, another one may win
    assert beams == "2" or (cut["text"], cut["finish_reason"]) == (whole[: whole.index(stop)], "stop")


# ---- tokenizers ----

def test_a_token_that_the_model_has_no_row_for_is_told_where_a_text_has_it(copied, capsys):
    folder = copied("classifier")
    path = folder / "tokenizer.json"
    said = json.loads(path.read_text())
    there = said["model"]["vocab"]
    largest = max(there, key=there.get)
    there[largest] = 5000
    path.write_text(json.dumps(said))
    assert main(["classify", largest.replace("Ġ", " "), "--model", str(folder)]) == 3
    assert (f"{folder}: a text has the token 5,000, and the model has embeddings of 300 tokens: its tokenizer is "
            "another model's") in capsys.readouterr().err
    assert main(["classify", "a", "--model", str(folder)]) == 0


def test_so_it_is_where_a_text_is_written(copied, capsys):
    folder = copied("gpt2")
    path = folder / "tokenizer.json"
    said = json.loads(path.read_text())
    there = said["model"]["vocab"]
    there[max(there, key=there.get)] = 5000
    path.write_text(json.dumps(said))
    assert main(["generate", max(there, key=there.get).replace("Ġ", " "), "--raw", "--model", str(folder)]) == 3
    assert "a text has the token 5,000, and the model has embeddings of 300 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("number", [66_200, 10**9, 4 * 10**9])
def test_ids_far_from_all_others_are_refused_for_a_table_has_a_row_for_each(number, copied):
    path = copied("gpt2") / "tokenizer.json"
    said = json.loads(path.read_text())
    said["model"]["vocab"]["zzz"] = number
    path.write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=f"has 301 tokens, and ids up to {number:,}: they would leave most rows"):
        load(path.parent)


def test_an_adapter_asks_for_no_table_that_its_weights_do_not_hold(trained):
    model = open_model(trained / "gpt2").model
    assert check_rows(trained / "gpt2" / "model", model, 300 + 2**19) is None  # 32 wide: 2**24 numbers
    with pytest.raises(CheckpointError, match=r"asks for a table of 33,554,432 tokens over a model of 300, and"):
        check_rows(trained / "gpt2" / "model", model, 2**25)


@pytest.mark.parametrize("length", ["abc", None, [5], -1, 0, 1.5, True])
def test_a_length_that_is_no_number_is_refused(length, copied):
    path = copied("gpt2") / "tokenizer_config.json"
    change(path, model_max_length=length)
    if length is None:  # it says nothing
        assert load(path.parent).model_max_length > 10**9
        return
    with pytest.raises(CheckpointError, match=r"model_max_length is .*, and no number of tokens"):
        load(path.parent)


@pytest.mark.parametrize("where", ["single", "ids"])
def test_a_frame_of_millions_of_tokens_is_refused(where, copied):
    path = copied("gpt2") / "tokenizer.json"
    said = json.loads(path.read_text())
    many = 65
    piece, text = {"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    said["post_processor"] = {
        "type": "TemplateProcessing", "single": [*[piece] * (many if where == "single" else 1), text],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"x": {"id": "x", "ids": [2] * (many if where == "ids" else 1), "tokens": ["x"]}}}
    path.write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=f"puts 6[56] tokens around a text \\({where}\\); at most 64 are taken"):
        load(path.parent)


# ---- adapters ----

class Layers:
    """What config_for asks of a model: the names of its layers."""

    def __init__(self, *names):
        self.names = names

    def named_modules(self):
        return [(name, None) for name in self.names]


@pytest.mark.parametrize("field", [
    "target_modules", "modules_to_save", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"])
def test_tens_of_thousands_of_names_that_no_layer_has_take_no_time(field, tmp_path):
    names = [f"x{i}" for i in range(60_000)]
    numbered = field in ("rank_pattern", "alpha_pattern")
    said = {"peft_type": "LORA", field: dict.fromkeys(names, 4) if numbered else names}
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=f"{field} names 60,000 layers that the model below it doesn't have"):
        config_for(Layers("h.0.attn", "h.1.attn"), tmp_path, said)
    assert time.monotonic() - started < 2


def test_names_of_layers_that_are_there_are_all_taken(tmp_path):
    names = [f"h.{i}.{part}" for i in range(200) for part in ("q", "k", "v", "o")]
    made = config_for(Layers(*names), tmp_path, {"peft_type": "LORA", "r": 2, "target_modules": [*names, "q", "other"]})
    assert set(made.target_modules) == {*names, "q", "other"}


@pytest.mark.parametrize("fields", [{"task_type": []}, {"task_type": {"a": 1}}, {"num_virtual_tokens": "x"}])
def test_an_adapters_field_of_another_kind_is_told(fields, trained, tmp_path, capsys):
    save_file({"x.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "base_model_name_or_path": str(trained / "gpt2" / "model"), **fields}))
    assert main([*GENERATE, str(tmp_path)]) == 4
    assert f"adapter_config.json: {next(iter(fields))} is " in capsys.readouterr().err


@pytest.mark.parametrize(("name", "content", "why"), [
    ("tokenizer.json", "[]", "tokenizer.json: holds no object"),
    ("tokenizer.json", "{}", 'tokenizer.json: has no "model"'),
    ("tokenizer.json", "{", "tokenizer.json: can't be read: "),
    ("tokenizer_config.json", "[]", "tokenizer_config.json: holds no object"),
    ("generation_config.json", "[]", "generation_config.json: holds no object"),
    ("generation_config.json", "{", "generation_config.json: can't be read: ")])
def test_a_file_that_holds_something_else_is_named(name, content, why, copied, capsys):
    folder = copied("gpt2")
    (folder / name).write_text(content)
    assert main([*GENERATE, str(folder)]) in (2, 4)
    assert f"{folder}/{why}" in capsys.readouterr().err.splitlines()[-1]
