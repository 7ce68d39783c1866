"""`${env:NAME}` in a recipe's paths: names of a list, on this machine only, and nowhere else."""

import re
from pathlib import Path
from typing import Any

import pytest

from llmkit import recipe as recipes
from llmkit.recipe import variables
from llmkit.recipe.registry import KINDS, find, names
from llmkit.system.errors import RequestError

ROOT = Path(__file__).parents[2]
RECIPE: dict[str, Any] = {"backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
                          "data": {"train": "a.txt"}, "objective": "masked_lm"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*variables.FOLDERS, *variables.JOBS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRATCH", "/scratch/阿达/")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


@pytest.mark.parametrize(("settings", "field", "value"), [
    ({"data": {"train": "${env:SCRATCH}/wiki/*.txt"}}, "data.train", [{"source": "/scratch/阿达/wiki/*.txt"}]),
    ({"data": {"train": ["b.txt", {"source": "${env:SCRATCH}/a.en", "target": "${env:SCRATCH}/a.de"}]}}, "data.train",
     [{"source": "b.txt"}, {"source": "/scratch/阿达/a.en", "target": "/scratch/阿达/a.de"}]),
    ({"data": {"train": "tokens:${env:SCRATCH}/t", "validation": "${env:SCRATCH}/v.txt"}}, "data.train",
     [{"source": "tokens:/scratch/阿达/t"}]),
    ({"output_dir": "runs/${env:SLURM_JOB_ID}-a"}, "output_dir", "runs/4711-a"),
    ({"output_dir": "${env:SCRATCH}/runs/${env:SLURM_JOB_ID}"}, "output_dir", "/scratch/阿达/runs/4711"),
    ({"tokenizer": "${env:SCRATCH}/tok"}, "tokenizer.pretrained", "/scratch/阿达/tok"),
    ({"objective": {"name": "masked_lm", "phrases": "${env:SCRATCH}/p.txt"}}, "objective.phrases",
     "/scratch/阿达/p.txt")])
def test_a_path_has_what_the_variable_holds_and_so_has_the_runs_recipe(
    settings: dict[str, Any], field: str, value: Any
) -> None:
    tree = recipes.flat(recipes.tree_of(recipes.load({**RECIPE, **settings})))
    found = [{key: one[key] for key in ("source", "target") if one.get(key)} for one in tree[field]] if isinstance(
        value, list) else tree[field]
    assert found == value


def test_the_command_line_and_a_base_may_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK", str(tmp_path))
    (tmp_path / "below.yaml").write_text("base: bert_mlm\nseed: 3\n")
    (tmp_path / "above.yaml").write_text("base: ${env:WORK}/below.yaml\n")
    found = recipes.load(tmp_path / "above.yaml", ["output_dir=${env:WORK}/out"])
    assert (found.seed, found.output_dir) == (3, f"{tmp_path}/out")


def test_a_run_goes_on_where_the_variable_holds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**RECIPE, "data": {"train": "${env:SCRATCH}/a.txt"}}
    there = recipes.tree_of(recipes.load(asked))
    assert recipes.differences(recipes.load(asked), recipes.load(there)) == {}
    monkeypatch.setenv("SCRATCH", "/elsewhere")
    (name, (ours, theirs)), = recipes.differences(recipes.load(asked), recipes.load(there)).items()
    assert (name, ours[0]["source"], theirs[0]["source"]) == ("data.train", "/elsewhere/a.txt", "/scratch/阿达/a.txt")


@pytest.mark.parametrize(("text", "told"), [
    ("seed: 1\noutput_dir: ${env:HF_TOKEN}/a", r"r\.yaml:6: output_dir: HF_TOKEN is no variable that a recipe"),
    ("output_dir: ${env:SCRACH}/a", r"output_dir: SCRACH .* Did you mean 'SCRATCH'\?"),
    ("output_dir: ${env:HOME}/a", r"output_dir: HOME isn't set here: set it \(export HOME=…\), or write"),
    ("name: ${env:SLURM_JOB_ID}", r"r\.yaml:5: name: a variable may stand in a path only"),
    ("training: {lr_scheduler_type: '${env:HOME}'}", r"training\.lr_scheduler_type: a variable may stand in a path"),
    ("training: {metrics: ['${env:SCRATCH}/m.py']}", r"training\.metrics\.0: a variable may stand in a path only"),
    ("prompting: {name: prefix, instruction: 'in ${env:HOME}'}", r"prompting\.instruction: a variable may stand in"),
    ("backbone: {config: {'${env:HOME}': 1}}", r"a variable may stand in a path only, and this is the name of a field"),
    ("teacher: 'hub:${env:SCRATCH}/x'", r"teacher: a variable .* on this machine only, and what begins with hub:"),
    ("teacher: 'https://x.org/${env:SLURM_JOB_ID}'", r"what begins with https: is elsewhere"),
    ("backbone: {pretrained: 'me/x-${env:SLURM_JOB_ID}'}", r"may be a model's name on a hub, where no variable"),
    ("data: {train: 'tokens:https://x.org/${env:SLURM_JOB_ID}'}", r"what begins with tokens: is elsewhere"),
    ("output_dir: a/${env:SCRATCH}", r"SCRATCH is a folder: a path begins with it, as \$\{env:SCRATCH\}/corpora"),
    ("output_dir: ${env:SCRATCH}x", r"SCRATCH is a folder: a path begins with it"),
    ("output_dir: ${env:SCRATCH", r"a variable is written \$\{env:NAME\}"),
    ("output_dir: ${env:}/a", r"write \$\{env:NAME\}"),
    ("output_dir: ${oc.env:SCRATCH}/a", r"\$\{oc\.env:SCRATCH\} isn't how a variable is written here; write"),
    ("output_dir: '${{ env.SCRATCH }}/a'", r"write \$\{env:SCRATCH\}"),
    ("output_dir: '${env:SCRATCH,/tmp}/a'", r"write \$\{env:SCRATCH\}\. A default can't be given"),
    ("base: ${env:SCRATCH}/no.yaml", r"r\.yaml:5: base: no recipe at '/scratch/阿达/no\.yaml'"),
    ("base: ${env:PATH}/no.yaml", r"r\.yaml:5: base: PATH is no variable")])
def test_anything_else_is_refused_with_file_and_line(text: str, told: str, tmp_path: Path) -> None:
    head = "".join(f"{key}: {value}\n" for key, value in RECIPE.items() if f"{key}:" not in text)
    head += "#\n" * (4 - head.count("\n"))
    (tmp_path / "r.yaml").write_text(head + text)
    with pytest.raises(RequestError, match=told) as error:
        recipes.load(tmp_path / "r.yaml")
    assert error.value.status == 2 and "hf_secret" not in str(error.value)


@pytest.mark.parametrize(("name", "value", "told"), [
    ("SCRATCH", "scratch/ada", "a whole path is needed there"), ("SCRATCH", "/a\nb", "a whole path is needed there"),
    ("SLURM_JOB_ID", "../../etc", "no number of a job"), ("SLURM_JOB_ID", "..", "no number of a job"),
    ("SLURM_JOB_ID", "", "isn't set here")])
def test_a_value_that_is_not_what_its_name_says_is_refused(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=told):
        recipes.load({**RECIPE, "output_dir": f"${{env:{name}}}/a"})


@pytest.mark.parametrize("text", ["a/${HOME}/$x/{env:a}.txt", "$x/a.txt", "${LANG}/a.txt", "$HOMES.txt"])
def test_text_that_only_looks_like_one_is_text(text: str) -> None:
    assert recipes.load({**RECIPE, "data": {"train": text}}).data.train[0].source == text


@pytest.mark.parametrize(("settings", "told"), [
    ({"data": {"train": ["a.txt", "$HOME/b.txt"]}},
     r"data\.train\.1: \$HOME isn't how a variable is written here; write \$\{env:HOME\} \(or ~/b\.txt\)\."),
    ({"data": {"train": "tokens:${SCRATCH}/t"}}, r"data\.train: \$\{SCRATCH\} isn't .* write \$\{env:SCRATCH\}\.$"),
    ({"output_dir": "runs/$SLURM_JOB_ID"}, r"output_dir: \$SLURM_JOB_ID isn't .* write \$\{env:SLURM_JOB_ID\}\.$")])
def test_a_variable_as_a_shell_has_it_is_no_folder_of_that_name(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        recipes.load({**RECIPE, **settings})


def test_a_home_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert recipes.load({**RECIPE, "output_dir": "~/runs/a"}).folder == Path("/home/ada/runs/a")


def test_security_lists_the_names() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    row = next(line for line in page.splitlines() if "${env:NAME}" in line)
    assert set(re.findall(r"`([A-Z][A-Z_]+)`", row)) == {*variables.FOLDERS, *variables.JOBS}


def test_every_option_that_is_a_file_is_a_place() -> None:
    """By what its help says: 'A file of …'."""
    blocks = {kind: block for block, (kind, _) in recipes.BLOCKS.items()}
    files = [(blocks[kind], option) for kind in KINDS if kind in blocks for name in names(kind)
             for option, about in recipes.options_schema(find(kind, name)).get("properties", {}).items()
             if about.get("description", "").startswith(("A file ", "A folder "))]
    assert ("prompting", "file") in files and ("objective", "phrases") in files
    assert [path for path in files if not variables.is_place(path)] == []
