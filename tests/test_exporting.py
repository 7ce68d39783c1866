import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OBJECTIVE, tiny

import llmkit
from llmkit import models, recipe
from llmkit.cli import main
from llmkit.errors import PlaceError, RequestError
from llmkit.train import fit

Tune = Callable[..., Path]
ALONE = "import sys\nsys.modules['llmkit'] = sys.modules['peft'] = None\n"
"""Python before a snippet: neither llmkit nor peft can be imported."""


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
            "training": {"max_steps": 4, "global_batch_size": 8, "learning_rate": 0.02, "precision": "fp32"}}))
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


def test_the_cards_lines_run_where_neither_llmkit_nor_peft_is(tune: Tune, tmp_path: Path) -> None:
    snippets = []
    for family, task in (("gpt2", None), ("bert", "classification"), ("t5", None)):
        llmkit.export(tune(family, "lora", task), tmp_path / family)
        card = (tmp_path / family / "README.md").read_text()
        snippets += re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert "tuning `lora`" in card
        assert "Its adapter (LORA) is merged" in card
    assert [sum(bool(line) for line in snippet.splitlines()) for snippet in snippets] == [5, 5, 5]
    done = subprocess.run([sys.executable, "-c", ALONE + "\n".join(snippets)], capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) >= 3


def test_a_model_without_an_adapter_is_copied_as_it_is(text: Path, tmp_path: Path) -> None:
    fit(recipe.load(tiny("gpt2", text, tmp_path / "run", max_steps=1)))
    assert llmkit.export(tmp_path / "run", tmp_path / "out")["merged"] is None
    whole = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", *(path.name for path in (tmp_path / "run" / "model").iterdir())}
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
    assert found == {"folder": str(tmp_path / "out"), "merged": None, "base": None, "from": str(tmp_path / "run"),
                     "class": "AutoModelForMaskedLM"}
