"""Tab in a shell: commands, options and names are offered, at once and without a library."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmkit import recipe
from llmkit.cli import completion, main
from llmkit.models import CATALOGUE
from llmkit.recipe import registry

HEAVY = ("torch", "transformers", "datasets", "peft", "accelerate", "tokenizers", "numpy", "sklearn")


def offered(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What bash is told for the last word of a line, as its completion function asks."""
    words = line.split(" ")
    monkeypatch.setenv("_LLMKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(("line", "names"), [
    ("llmkit pre", ["pretrain", "predict"]),
    ("llmkit models ", ["list", "pull", "convert"]),
    ("llmkit pretrain --out", ["--output-dir"]),
    ("llmkit pretrain be", ["bert_mlm", "bert_mlm_zh"]),
    ("llmkit recipes show gpt", ["gpt2_causal", "gpt2_tang"]),
    ("llmkit finetune --method pre", ["prefix"]),
    ("llmkit finetune --task question", ["question_answering"]),
    ("llmkit finetune --model mini", ["minilm-l6"]),
    ("llmkit compare classification --methods full,pre", ["full,prefix"]),
    ("llmkit prompts prompts --modes rev", ["reverse"]),
    ("llmkit evaluate smollm2-135m-i", ["smollm2-135m-instruct"]),
    ("llmkit evaluate x --data y --objective masked_lm_", ["masked_lm_next_sentence"]),
    ("llmkit generate hello --prompt clo", ["cloze"]),
    ("llmkit --debug generate hello --model minilm", ["minilm-l6"]),
    ("llmkit serve minilm-l6 t5", ["t5-small"]),
])
def test_a_word_that_is_begun_is_offered_whole(
    line: str, names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    assert offered(line, monkeypatch, capsys) == names


def test_an_empty_word_is_offered_every_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    assert offered("llmkit pretrain ", monkeypatch, capsys) == list(recipe.packaged())
    assert offered("llmkit finetune --method ", monkeypatch, capsys) == list(registry.names("tuning"))
    assert offered("llmkit finetune --task ", monkeypatch, capsys) == list(registry.names("tasks"))
    assert offered("llmkit chat --model ", monkeypatch, capsys) == list(CATALOGUE)


def test_a_path_is_left_to_the_shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert offered("llmkit pretrain recipes/b", monkeypatch, capsys) == []
    assert offered("llmkit evaluate runs/", monkeypatch, capsys) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_a_script_that_asks_llmkit(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    with pytest.raises(SystemExit) as end:
        main(["--show-completion"])
    assert end.value.code == 0
    script = capsys.readouterr().out
    assert f"_LLMKIT_COMPLETE=complete_{shell}" in script


def test_the_script_is_installed_for_the_shell_that_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    with pytest.raises(SystemExit) as end:
        main(["--install-completion"])
    assert end.value.code == 0
    assert "_LLMKIT_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "llmkit.sh").read_text()
    assert "llmkit.sh" in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_a_shell_that_is_not_known_is_told_in_the_last_line(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    assert main([option]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"llmkit: error: {option}: ")


def test_nothing_heavy_is_imported_to_complete() -> None:
    code = f"""
import sys
from llmkit.cli import completion
for complete in (completion.recipes, completion.models, completion.methods, completion.tasks, completion.modes):
    assert complete("")
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_tells_of_the_two_options_and_no_command_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    said = capsys.readouterr().out
    assert "--install-completion" in said
    assert "--show-completion" in said
    main(["pretrain", "--help"])
    assert "completion" not in capsys.readouterr().out


def test_the_last_of_several_is_completed() -> None:
    assert completion.several_methods("lora,bi") == ["lora,bias"]
    assert completion.several_methods("bi") == ["bias"]
    assert completion.several_methods("lora(r=4),") == [f"lora(r=4),{name}" for name in registry.names("tuning")]
