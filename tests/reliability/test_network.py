"""X9, X10: switched off means no connection at all; what is secret is in no file that a run leaves and no line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from reliability import runs
from reliability.commands import Server
from reliability.test_data import refused

pytestmark = pytest.mark.reliability
quick = pytest.mark.quick
CANARY = "CANARY0123456789"
SECRETS = {
    "HF_TOKEN": f"hf_{CANARY}", "HUGGING_FACE_HUB_TOKEN": f"hf_{CANARY}", "WANDB_API_KEY": CANARY,
    "COMET_API_KEY": CANARY,
    "MLFLOW_TRACKING_PASSWORD": CANARY, "LLMKIT_API_KEY": f"sk-{CANARY}", "OPENAI_API_KEY": f"sk-{CANARY}",
    "HF_ENDPOINT": f"http://me:{CANARY}@127.0.0.1:9", "PIP_INDEX_URL": f"http://me:{CANARY}@127.0.0.1:9/simple",
    "https_proxy": f"http://me:{CANARY}@127.0.0.1:9", "http_proxy": f"http://me:{CANARY}@127.0.0.1:9"}
COMMANDS = """
import json, sys
tried = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        if not str(arguments[-1]).startswith(("/", "b'/")):
            tried.append(f"{event} {arguments[1:]}")
sys.addaudithook(hook)
from llmkit.cli import main
statuses = [main(words) for words in json.loads(sys.argv[1])]
print(json.dumps({"statuses": statuses, "tried": tried}))
"""
"""Commands in one process, and which connections they asked Python for."""


def commands(folder: Path, text: Path, labelled: Path) -> list[list[str]]:
    """Pretrain, go on from there with a task and an adapter, evaluate, generate, predict, export, look around."""
    first = runs.write(tiny("gpt2", text, folder / "first", max_steps=1))
    tuned = tiny("gpt2", labelled, folder / "tuned", max_steps=1)
    for name in ("objective", "tokenizer"):
        del tuned[name]
    tuned |= {"backbone": {"pretrained": str(folder / "first")}, "task": "classification", "tuning": {"method": "lora"}}
    return [["pretrain", str(first)], ["pretrain", str(runs.write(tuned))],
            ["evaluate", str(folder / "first"), "--data", str(text), "--json"],
            ["generate", "the cat", "--model", str(folder / "first"), "--max-new-tokens", "4"],
            ["predict", str(folder / "tuned"), str(labelled), "-o", str(folder / "out.jsonl")],
            ["export", str(folder / "first"), "--to", str(folder / "given")], ["doctor"], ["models", "list"]]


def done(before: list[str], folder: Path, words: list[list[str]], **env: str) -> dict[str, Any]:
    """Run commands in a process of their own, started by `before`; what they said is checked by the caller."""
    variables = {**os.environ, "LLMKIT_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hub"), **env}
    ended = subprocess.run([*before, sys.executable, "-c", COMMANDS, json.dumps(words)], cwd=folder, env=variables,
                           capture_output=True, text=True, check=False, timeout=600)
    (folder / "said.log").write_text(ended.stdout + ended.stderr)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def can(*words: str) -> bool:
    return shutil.which(words[0]) is not None and not subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.timeout(900)
@pytest.mark.skipif(not can("unshare", "-rn", "true"), reason="no network namespaces here")
def test_all_works_where_there_is_no_network(tmp_path: Path, text: Path, labelled: Path) -> None:
    """X9: a namespace without even a loopback; and nothing asks for a connection."""
    words = commands(tmp_path, text, labelled)
    found = done(["unshare", "-rn"], tmp_path, words, LLMKIT_OFFLINE="1", HF_HUB_OFFLINE="1")
    assert found == {"statuses": [0] * len(words), "tried": []}


@pytest.mark.timeout(900)
@pytest.mark.skipif(not can("strace", "-f", "-e", "trace=connect", "true"), reason="no strace here")
def test_nothing_connects_where_that_is_switched_off(tmp_path: Path, text: Path, labelled: Path) -> None:
    """X9: seen from outside, by system calls; the secrets of X10 are in the environment."""
    words = [["--offline", *some] for some in commands(tmp_path, text, labelled)]
    env = {name: value for name, value in SECRETS.items() if "proxy" not in name}
    trace = tmp_path / "trace.log"
    found = done(["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace)], tmp_path, words,
                 LLMKIT_OFFLINE="", HF_HUB_OFFLINE="", **env)
    assert found == {"statuses": [0] * len(words), "tried": []}
    calls = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    assert calls == []
    trace.unlink()  # strace shows the environment of what it starts
    _nowhere(tmp_path)


def _nowhere(folder: Path) -> None:
    """No file holds the canary."""
    holding = [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == []
    assert [path for path in folder.rglob("*") if CANARY in path.name] == []


@quick
def test_secrets_are_in_no_file_that_a_run_leaves_and_in_no_line(llmkit: Server, tmp_path: Path, text: Path) -> None:
    """X10"""
    env = {**SECRETS, "LLMKIT_CACHE": str(tmp_path / "cache")}
    trackers = [name for name in ("tensorboard",) if _installed(name)]
    tree = tiny("gpt2", text, tmp_path / "run", max_steps=2, save_steps=1, report_to=trackers)
    tree["data"]["validation"] = 0.2
    for words in (["pretrain", runs.write(tree)], ["doctor", "--json"], ["evaluate", tmp_path / "run", "--data", text],
                  ["generate", "the cat", "--model", tmp_path / "run", "--max-new-tokens", "2"],
                  ["export", tmp_path / "run", "--to", tmp_path / "given"], ["models", "list", "--json"]):
        ended = llmkit.run(*words, env=env)
        assert ended.status == 0, ended.err
        assert CANARY not in ended.out + ended.err
    _nowhere(tmp_path)


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


ASKING: dict[str, list[str]] = {
    "X10-model": ["generate", "hi", "--model", "nobody/nothing"], "X10-catalogue": ["models", "pull", "minilm-l6"],
    "X10-data": ["evaluate", "x", "--data", "hub:nobody/nothing"], "X10-doctor": ["doctor"],
    "X10-address": ["generate", "hi", "--model", f"http://me:{CANARY}@127.0.0.1:9/x"]}


@pytest.mark.parametrize("case", ASKING)
def test_secrets_are_not_said_where_a_hub_or_registry_cannot_be_reached(
    case: str, llmkit: Server, tmp_path: Path,
) -> None:
    """X10: with --debug too, where libraries may show what they asked."""
    env = {**SECRETS, "LLMKIT_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub"), "LLMKIT_OFFLINE": "",
           "HF_HUB_OFFLINE": "", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    ended = llmkit.run(*ASKING[case], env=env, own=True)
    assert CANARY not in ended.out + ended.err
    assert ended.status in (0, 2, 3)
    _nowhere(tmp_path)


@pytest.mark.parametrize(("words", "status"), [
    pytest.param(["generate", "hi", "--model", "nobody/nothing"], 2, id="X9-model"),
    pytest.param(["generate", "hi", "--model", "gpt2"], 2, id="X9-catalogue"),
    pytest.param(["models", "pull", "minilm-l6"], 2, id="X9-wheel"),
    pytest.param(["pretrain", "gpt2_causal", "--set", "data.train=hub:nobody/nothing"], 3, id="X9-data"),
    pytest.param(["finetune", "--set", "training.metrics=[accuracy]", "--model", "gpt2"], 2, id="X9-metric")])
def test_what_would_have_to_be_fetched_is_refused_without_asking(
    words: list[str], status: int, llmkit: Server, tmp_path: Path,
) -> None:
    """X9: the proxy that is set would tell of a connection."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        env = {"http_proxy": address, "https_proxy": address, "HF_ENDPOINT": address, "PIP_INDEX_URL": address,
               "LLMKIT_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}
        refused(llmkit.run(*words, "--output-dir", "run", env=env) if words[0] in ("pretrain", "finetune")
                else llmkit.run(*words, env=env), status, "")
        with pytest.raises(TimeoutError):
            proxy.accept()
