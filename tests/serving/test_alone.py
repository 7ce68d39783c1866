"""One process on one device: what asks for more is told who serves so; adapters hold their base once."""

from pathlib import Path

import pytest
import torch
from conftest import tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.serving.served import open_all
from llmkit.training.fit import fit


@pytest.mark.parametrize(("option", "way"), [
    ("--processes", "--tensor-parallel-size 2"), ("--tensor-parallel-size", "--tensor-parallel-size 2"),
    ("--data-parallel-size", "--data-parallel-size 2")])
def test_more_than_one_device_is_vllms_with_the_commands(
    option: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "runs/mine", option, "2"]) == 2
    said = capsys.readouterr().err
    assert f"llmkit: error: {option} 2: llmkit serves from one process and one device." in said
    assert f"llmkit export runs/mine --to exported; vllm serve exported {way} (docs/serving.md)" in said


def test_adapters_share_their_base_on_the_device(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving to a device copies: here it does so though it is the same one."""
    fit(recipe.load(tiny("gpt2", text, tmp_path / "base", max_steps=1)))
    made = tiny("gpt2", text, tmp_path / "over", max_steps=1)
    del made["tokenizer"]
    fit(recipe.load({**made, "backbone": {"pretrained": str(tmp_path / "base")}, "tuning": {"method": "lora"}}))
    usual = torch.nn.Module.to

    def moved(self: torch.nn.Module, *where: object, **more: object) -> torch.nn.Module:
        for parameter in self.parameters():
            parameter.data = parameter.data.clone()
        return usual(self, *where, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    folder = tmp_path / "base" / "model"
    found = open_all({"base": folder}, {"over": (tmp_path / "over" / "model", "base")})
    below, over = (found[name].writer.opened.model for name in ("base", "over"))  # type: ignore[union-attr]
    held = {parameter.data_ptr() for parameter in below.parameters()}
    own = [name for name, parameter in over.named_parameters() if parameter.data_ptr() not in held]
    assert own and all("lora_" in name for name in own)
