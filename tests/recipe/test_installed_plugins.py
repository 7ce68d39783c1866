"""Plug-ins of installed packages: an entry point names them, recipes say the name, and listing imports nothing.

The template package of examples/plugin/ stands here as if it were installed: its folder, and what pip writes beside it.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from test_contributing import examples

from llmkit import recipe as recipes
from llmkit.cli import completion, main
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.training.looking.story import foreign

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "plugin"
PROJECT = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]


def put(site: Path, name: str, points: dict[str, dict[str, str]]) -> None:
    """What pip leaves of a package's metadata."""
    info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("\n".join(
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in names.items()) + "\n"
        for group, names in points.items()))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template, installed; the folder where others may be."""
    put(tmp_path, PROJECT["name"], PROJECT["entry-points"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(TEMPLATE)
    for name in [name for name in sys.modules if name.startswith("llmkit_backward")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_a_name_leads_to_the_module_that_the_package_says(site: Path) -> None:
    assert registry.find("objectives", "backward_lm").__module__ == "llmkit_backward.backward_lm"
    assert registry.find("tuning", "embeddings").__name__ == "Embeddings"


def test_what_is_installed_is_listed_and_offered_and_not_imported(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, name in (("objectives", "backward_lm"), ("methods", "embeddings")):
        assert main([command]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.split(maxsplit=1) == [name, f"llmkit_backward.{name}, of llmkit-backward 0.1.0."]
    assert main(["objectives", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [*registry.names("objectives"), "backward_lm"]
    assert completion.objectives("back") == ["backward_lm"]
    assert foreign({"objective": "backward_lm"}) and not foreign({"objective": "masked_lm"})
    assert not [name for name in sys.modules if name.startswith("llmkit_backward.")]


def test_the_templates_recipe_trains_and_says_which_modules_it_had(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(TEMPLATE)
    run = tmp_path / "run"
    command = ["pretrain", "backward_lm.yaml", "--output-dir", str(run), "--set", "training.figures=false"]
    assert main(command) == 0
    there = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (there["objective"]["name"], there["tuning"]["method"]) == (
        "llmkit_backward.backward_lm", "llmkit_backward.embeddings")
    assert main(command) == 0
    assert "this run is complete after 3 steps" in capsys.readouterr().err


def test_a_name_that_is_much_like_it_leads_there_and_an_editor_knows_it(site: Path) -> None:
    with pytest.raises(RequestError, match=r"no objective is called 'backwards_lm'\. Did you mean 'backward_lm'\?"):
        registry.find("objectives", "backwards_lm")
    schema = recipes.schema()
    for block, fits in (({"name": "backward_lm", "add_eos_token": False}, True), ("backward_lm", True),
                        ("my.own.module", True), ({"name": "my.own.module", "x": 1}, True),
                        ("backwards_lm", False), ({"name": "masked_lm", "x": 1}, False), ("my.own module", False)):
        assert jsonschema.Draft202012Validator(schema).is_valid({"base": "bert_mlm", "objective": block}) == fits


@pytest.mark.parametrize(("points", "name", "told"), [
    ({"backward_lm": "another.module"}, "backward_lm",
     r"'backward_lm' is the objective of several packages; write its module: .*llmkit_backward\.backward_lm \(llmkit-"),
    ({"gone": "llmkit_nowhere.gone"}, "gone", r"no module 'llmkit_nowhere' can be imported for the objective 'gone'"),
    ({"classy": "llmkit_backward.backward_lm:BackwardLM"}, "classy",
     r"names a module, llmkit_backward\.backward_lm, which has one public class"),
    ({"wrong": "json.decoder"}, "wrong", r"json\.decoder must define one public class to be a objective; it has 2|"
                                         r"must be made from")])
def test_what_a_package_says_wrongly_is_told(
    points: dict[str, str], name: str, told: str, site: Path
) -> None:
    put(site, "other", {"llmkit.objectives": points})
    with pytest.raises(RequestError, match=told):
        registry.find("objectives", name)


def test_no_package_takes_a_name_of_llmkits_own(site: Path) -> None:
    put(site, "thief", {"llmkit.objectives": {"masked_lm": "llmkit_backward.backward_lm"}})
    assert registry.find("objectives", "masked_lm").__module__ == "llmkit.objectives.masked_lm"
    assert list(registry.installed("objectives")) == ["backward_lm"]


def test_every_kind_has_a_group_and_the_page_names_it() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text()
    assert registry.GROUPS["backbones"] == "llmkit.families"
    assert [group for group in registry.GROUPS.values() if f"`{group}`" not in page] == []


def test_the_template_has_the_worked_examples_of_contributing() -> None:
    for kind, name in (("objective", "backward_lm"), ("tuning method", "embeddings")):
        module = next(text for path, text in examples()[kind].files.items() if path.endswith(f"/{name}.py"))
        assert (TEMPLATE / "llmkit_backward" / f"{name}.py").read_text() == module


@pytest.mark.slow
def test_pip_installs_the_template_and_its_own_tests_pass(tmp_path: Path) -> None:
    """Without a network: what builds it is here already."""
    pytest.importorskip("hatchling")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target",
                    str(site), str(TEMPLATE)], check=True)
    paths = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-c", os.devnull, str(TEMPLATE / "tests")],
                          env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_pages_file_is_an_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "plugins.md").read_text()
    (tmp_path / "my_objective").mkdir()
    (path, module), = re.findall(r"^```python (\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / path).write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = recipes.load("gpt2_causal", ["objective={name: my_objective.middle, unlearned: 0.4}"])
    row = recipe.learning.draw(np.arange(6, dtype=np.uint16), np.random.default_rng(0), None)
    assert row["input_ids"].tolist() == [0, 1, 2, 3, 4]
    assert row["labels"].tolist() == [-100, -100, 3, 4, 5]
    with pytest.raises(RequestError, match=r"objective\.unlearned: 1\.5"):
        recipes.load("gpt2_causal", ["objective={name: my_objective.middle, unlearned: 1.5}"])
