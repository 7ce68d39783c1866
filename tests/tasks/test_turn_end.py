"""The token that ends an answer ends what the model writes, though its base ends texts with another one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, stories, write_rows

import llmkit
from llmkit import models, recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.inference.writing.turn_ends import learned_ends
from llmkit.inference.writing.writer import Options, Writer
from llmkit.models import ends
from llmkit.objectives.base import Setup
from llmkit.recipe import registry
from llmkit.tasks.instruction import Instruction
from llmkit.training.fit import fit

CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
# gemma's turn, Llama 3's calls that end otherwise, gpt-oss' last turn that does, and ones that end with nothing
GEMMA = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
CALLS = ("{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n{{ m.tool_calls[0].function.name }}<|end|>"
         "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# tools #}")
LAST = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if loop.last and m.role == 'assistant' %}<|end|>{% else %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
BARE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}")
ROWS = [{"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in (("the cat ?", "a hat"), ("a dog ?", "the moon"))] * 8


def tokenizer_of(template: str) -> Any:
    """Texts end with one token and turns with others."""
    made = tokenizers.train([*stories(80), "system user assistant"], "bpe", 300)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|end|>"]})
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose end token isn't the end of a turn, as Qwen's."""
    import transformers

    folder, made, family = tmp_path_factory.mktemp("base"), tokenizer_of(CHATML), registry.find("backbones", "llama")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(family.config("tiny", SMALL["llama"], made))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def tuned(base: Path, folder: Path, rows: list[dict[str, Any]] = ROWS, task: str = "instruction", **more: Any) -> Path:
    fit(recipe.load({
        "backbone": {"pretrained": str(base)}, "task": task, "output_dir": str(folder / "run"),
        "data": {"train": str(write_rows(folder / "rows.jsonl", rows)), "max_length": 40},
        "training": {"figures": False, "max_steps": 60, "global_batch_size": 8, "learning_rate": 1e-2}, **more}))
    return folder / "run"


def said(folder: Path) -> Any:
    return json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


@pytest.mark.parametrize(("template", "others"), [
    (CHATML, ["<|im_end|>"]), (GEMMA, ["<|end|>"]), (CALLS, ["<|im_end|>", "<|end|>"]),
    (LAST, ["<|end|>"]), (BARE, ["<|endoftext|>"]), ("{{ raise_exception('no') }}", ["<|endoftext|>"]),
], ids=["chatml", "gemma", "calls", "last", "bare", "refused"])
def test_what_a_template_ends_answers_with_is_known_from_it(template: str, others: list[str]) -> None:
    made = tokenizer_of(template)
    setup = Setup(made, registry.find("backbones", "llama"), 64, "none", 0)
    assert made.convert_ids_to_tokens(Instruction().ends(setup)) == others
    assert Instruction(template="{prompt}: ").ends(setup) == [made.eos_token_id]


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_a_turns_end_ends_what_a_tuned_model_writes(method: str, base: Path, tmp_path: Path) -> None:
    run = tuned(base, tmp_path, tuning=method)
    made = models.open_model(base).tokenizer
    both = [made.eos_token_id, made.convert_tokens_to_ids("<|im_end|>")]
    assert said(base) == both[0]
    assert said(run / "model") == both
    writer = Writer.open(str(run))
    assert writer.settings(Options())[1] == both
    if method == "full":
        ((answer,),) = writer.write([writer.ids("the cat ?")], Options(max_new_tokens=20))
        assert (answer.text, answer.finish_reason) == ("a hat", "stop")


def test_an_adapters_export_ends_there_too(base: Path, tmp_path: Path) -> None:
    import gguf
    import transformers

    run = tuned(base, tmp_path, tuning="lora")
    llmkit.export(run, tmp_path / "out")
    (other,) = (one for one in said(run / "model") if one != said(base))
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert config.eos_token_id == [said(base), other]
    llmkit.export(run, tmp_path / "gguf", format="gguf")
    (path,) = (tmp_path / "gguf").glob("*.gguf")
    fields = gguf.GGUFReader(path).fields
    assert [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot")] == [said(base), other]


def test_a_preference_run_leaves_it_too(base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "the cat ?", "chosen": "a hat", "rejected": "the moon"}] * 8
    run = tuned(base, tmp_path, rows, "preference", tuning="lora")
    assert said(run / "model") == [said(base), models.open_model(base).tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_ends_are_added_and_none_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    ends.add(tmp_path, [2])
    assert not path.exists()  # an encoder writes nothing
    for before, learned, after in ((0, [2], [0, 2]), ([0, 1], [1], [0, 1]), (2, [2], 2), (None, [2], 2)):
        path.write_text(json.dumps({"eos_token_id": before, "top_k": 5}))
        ends.add(tmp_path, learned)
        assert json.loads(path.read_text()) == {"eos_token_id": after, "top_k": 5}
    path.write_text("{}")
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    ends.add(tmp_path, [2])
    assert json.loads(path.read_text()) == {"eos_token_id": [7, 2]}


def test_an_older_adapter_without_the_file_opens_as_before(base: Path, tmp_path: Path) -> None:
    run = tuned(base, tmp_path, tuning="lora")
    (run / "model" / "generation_config.json").unlink()
    assert models.open_model(run).model.generation_config.eos_token_id == said(base)


# ---- runs made before a run's model said it -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["full", "lora"])
def older(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run whose generation config has its base's end only, as those of before; and the end of its turns."""
    run = tuned(base, tmp_path_factory.mktemp("older"), tuning=request.param)
    path, one = run / "model" / "generation_config.json", said(base)
    (other,) = (end for end in said(run / "model") if end != one)
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": one}))
    return run, other


def test_an_older_run_ends_its_answers_all_the_same_and_says_so_once(
    older: tuple[Path, int], base: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    run, other = older
    with caplog.at_level("INFO", "llmkit"):
        writer = Writer.open(str(run))
        assert writer.settings(Options())[1] == [said(base), other]
        assert writer.settings(Options(num_beams=2))[0].eos_token_id == [said(base), other]
    (note,) = [one.getMessage() for one in caplog.records if "generation_config.json" in one.getMessage()]
    assert note == (f"{run / 'model'}: its answers were learned with <|im_end|> at their end, which "
                    "generation_config.json doesn't say: they end there")
    assert said(run / "model") == said(base)  # nothing is written into it
    opened = models.open_model(run)
    assert Writer("its own", opened).settings(Options())[1] == [said(base), other]
    assert opened.model.generation_config.eos_token_id == said(base)  # a program's model stays as it is


def test_an_export_of_an_older_run_says_it(older: tuple[Path, int], base: Path, tmp_path: Path) -> None:
    run, other = older
    llmkit.export(run, tmp_path / "out")
    assert said(tmp_path / "out") == [said(base), other]


def test_other_models_are_left_alone(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "llmkit"):
        assert learned_ends(models.open_model(base)) == []  # no run
        run = tuned(base, tmp_path, training={"figures": False, "max_steps": 1, "global_batch_size": 8})
        assert learned_ends(models.open_model(run)) == []  # which says it itself
        path = run / "model" / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": said(base)}))
        recipe_ = run / "recipe.yaml"
        recipe_.write_text(recipe_.read_text().replace("name: instruction", "name: mine.gone"))
        assert learned_ends(models.open_model(run)) == []  # whose plug-in isn't here
    assert "generation_config.json" not in caplog.text
