"""A command that llmkit prints can be pasted: whatever a path has in it, the shell takes it for one word."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmkit
from llmkit.data.fields import pasted
from llmkit.data.large.folder import plan_of
from llmkit.models import check_weights, resolve
from llmkit.recipe import Source
from llmkit.serving.network.alone import check_alone
from llmkit.system.errors import DataError, RequestError
from llmkit.system.terminal import shell_word

ODD = ["tok 中", "it's", "a;rm -rf b", "$(id)", "-x", 'say "no"', "two  spaces", "*.txt", "a&b", "ünïcode"]
COMMAND = re.compile(r"(?:llmkit|hf|llama-cli|vllm) [a-z-]+ ?[^`]*")
PLAIN = {"registry.name_of(task)", "usual.verb", "learned.task.verb", "path.stem", "way", "count", "repository", "at"}
"""What is written into commands and is a name of llmkit's own or of a hub, or went through it already."""
SOURCES = sorted(Path(llmkit.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("word", ODD)
def test_a_shell_takes_it_for_the_one_word(word: str) -> None:
    taken, = shlex.split(shell_word(word))
    assert taken.removeprefix("./") == word
    assert not taken.startswith("-")


def test_a_path_that_needs_no_quotes_has_none() -> None:
    assert shell_word(Path("runs/bert-mini_2/model")) == "runs/bert-mini_2/model"


def commands(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line, what is said, expressions in its commands) of the f-strings of a module that print a command."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            holes = [ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue)]
            numbers = iter(range(len(holes)))
            said = "".join(part.value if isinstance(part, ast.Constant) else f"\0{next(numbers)}\0"
                           for part in node.values)  # type: ignore[misc]
            for found in COMMAND.findall(said) if "`" in said or said.startswith("llama-cli") else ():
                inside = [holes[int(number)] for number in re.findall("\0(\\d+)\0", found)]
                if inside:
                    yield node.lineno, said, inside


def test_every_path_in_a_command_that_is_printed_goes_through_it() -> None:
    found = [(path, *one) for path in SOURCES for one in commands(path)]
    assert len(found) > 8, "the commands aren't found"
    assert [f"{path}:{line}: {hole}" for path, line, _, holes in found for hole in holes
            if "shell_word(" not in hole and hole not in PLAIN] == []


@pytest.mark.parametrize("name", ["tok 中", "it's"])
def test_what_is_said_of_such_a_folder_can_be_pasted(name: str, tmp_path: Path) -> None:
    """A folder of pickles, a model of an older layout, tokens whose list is damaged."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "tokens.json").write_text("{")
    with pytest.raises(DataError) as damaged:
        plan_of(folder, "tokens")
    assert pasted_words(damaged.value)[-2:] == ["--out", str(folder)]
    (folder / "bert_config.json").write_text('{"vocab_size": 9, "hidden_size": 8}')
    with pytest.raises(RequestError) as older:
        resolve(str(folder))
    assert pasted_words(older.value) == ["llmkit", "models", "convert", str(folder)]
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(RequestError) as pickles:
        check_weights(folder)
    assert pasted_words(pickles.value) == ["llmkit", "models", "convert", str(folder)]


def pasted_words(error: Exception) -> list[str]:
    """The words of the command that an error says, as a shell has them."""
    return shlex.split(str(error).split("`")[-2])


def test_what_names_a_column_or_another_program_can_be_pasted() -> None:
    said = pasted(Source("my 'r'.csv"), {"text": 1}, "data.train")
    assert shlex.split(said) == ["--set", "data.train={source: my 'r'.csv, fields: {text: 1}}"]
    with pytest.raises(RequestError, match=r"llmkit export 'my run' --to exported; vllm"):
        check_alone("my run", {"--tensor-parallel-size": 2})
