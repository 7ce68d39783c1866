"""Build the wheel and the source archive, and try the wheel out in a clean environment. `make release`.

Only the standard library is imported: it runs before anything is installed. What holds afterwards: the source archive
builds the same wheel, the wheel carries the types, the recipes and the tested versions, and what it installs answers
--help and trains three steps on text that every Python has, without a network. The template of plug-ins is installed
beside it, and is found. With --extras each extra is installed there too, one after the other, and what it is for is
imported.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CARRIED = tuple(f"llmkit/{name}" for name in (
    "py.typed", "constraints.txt", "recipes/bert_mlm.yaml", "serving/page/index.html", "system/messages/zh.po"))
"""Files of the wheel that are no modules, and that something would miss."""
IMPORTS = {
    "adamw-8bit": ("bitsandbytes",), "aim": ("aim",), "chinese": ("jieba",), "clearml": ("clearml",),
    "comet-ml": ("comet_ml",), "dvclive": ("dvclive",), "explain": ("captum",),
    "fonts": ("pylopdf_fonts_zh_cn",), "hdfs": ("requests",),
    "json": ("jsonschema", "llguidance"), "liger": ("liger_kernel",), "mlflow": ("mlflow",),
    "onnx": ("onnx", "onnxruntime"), "oss": ("ossfs",),
    "quality": ("datasketch",), "quantized": ("bitsandbytes",), "s3": ("s3fs",), "search": ("bm25s", "faiss"),
    "serve": ("h11", "prometheus_client", "starlette", "uvicorn"), "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard",), "trackio": ("trackio",), "wandb": ("wandb",),
}
"""What can be imported once an extra is installed: an extra that brings something else has another use."""
OLDER = ("aim", "mlflow", "s3", "swanlab", "trackio")
"""Extras whose packages want others older than the tested ones (filelock, pandas, pillow …): pip chooses what both can
have."""
TINY = ("backbone.size=tiny", "tokenizer={train: {vocab_size: 1000}}", "data.max_length=64", "data.validation=null",
        "training.max_steps=3", "training.global_batch_size=8")


def main() -> int:
    """Build, compare, install, run; whatever fails ends it."""
    dist = ROOT / "dist"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        hatchling: list[str | Path] = [environment(work / "tools", "hatchling"), "-m", "hatchling", "build"]
        for old in dist.glob("llmkit_train-*"):
            old.unlink()
        run(*hatchling, "-d", dist, "-t", "sdist", "-t", "wheel", at=ROOT)
        (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work / "source", filter="data")
        (source,) = (work / "source").iterdir()
        run(*hatchling, "-d", work / "again", "-t", "wheel", at=source)
        check(wheel, work / "again" / wheel.name)
        python = environment(work / "clean", str(wheel))
        llmkit = python.with_name("llmkit")
        run(llmkit, "--version", at=work)
        run(llmkit, "--help", at=work)
        settings = [word for setting in TINY for word in ("--set", setting)]
        run(llmkit, "pretrain", "gpt2_causal", *settings, "--output-dir", "run", at=work)
        steps = json.loads((work / "run" / "summary.json").read_text())["steps"]
        if steps != 3:
            sys.exit(f"release: {steps} steps instead of 3")
        pip(python, "--no-deps", source / "examples" / "plugin")
        run(llmkit, "pretrain", source / "examples" / "plugin" / "backward_lm.yaml", "--output-dir", "plugin",
            "--set", f"data.train={source / 'README.md'}", at=work)
        for extra, modules in IMPORTS.items() if "--extras" in sys.argv else ():
            pip(python, f"{wheel}[{extra}]", tested=extra not in OLDER)
            run(python, "-c", "; ".join(f"import {module}" for module in modules), at=work)
    print(f"release: {wheel.name} and {archive.name} in {dist}")
    return 0


def check(wheel: Path, again: Path) -> None:
    """The wheel and the one that the source archive builds hold the same, and all that they should."""
    first, second = contents(wheel), contents(again)
    if other := sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name)):
        sys.exit(f"release: the source archive builds another wheel: {', '.join(other)[:500]}")
    if missing := [name for name in CARRIED if name not in first]:
        sys.exit(f"release: the wheel lacks {', '.join(missing)}")
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "llmkit").rglob("*.py")}
    if lost := sorted(modules - first.keys()):
        sys.exit(f"release: the wheel lacks {', '.join(lost)[:500]}")
    if foreign := sorted(name for name in first if not name.startswith(("llmkit/", "llmkit_train-"))):
        sys.exit(f"release: the wheel holds {', '.join(foreign)[:500]}")


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel by name."""
    with zipfile.ZipFile(wheel) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def environment(folder: Path, *packages: str) -> Path:
    """The interpreter of a new environment with packages of the tested versions."""
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "venv", folder, at=ROOT)
    pip(python, *packages)
    return python


def pip(python: Path, *packages: str | Path, tested: bool = True) -> None:
    """Install packages, of the tested versions where these can be had."""
    versions: list[str | Path] = ["-c", ROOT / "constraints.txt"] if tested else []
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *versions, *packages, at=ROOT)


def run(*words: str | Path, at: Path) -> None:
    """Run a command; its failure ends this program."""
    print("$", " ".join(str(word) for word in words), flush=True)
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the wheel's llmkit, no other
    done = subprocess.run([str(word) for word in words], cwd=at, check=False, env={
        **here, "HF_HUB_OFFLINE": "1", "LLMKIT_CACHE": str(at / "cache")})
    if done.returncode:
        sys.exit(f"release: exit status {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
