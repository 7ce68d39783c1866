"""What llmkit does on a real GPU: losses, resuming, waits, speed, writing, serving. One command, and GPU_RESULTS.md.

    python benchmarks/gpu.py                     on a machine with a GPU: about ten minutes, no network
    python benchmarks/gpu.py --tiny --out DIR    a dry run on a CPU: small shapes, the same code; its speeds say nothing
    python benchmarks/gpu.py --only losses,waits

Each section is a process of its own with a time limit, so that a crash or a hang costs that section only; what a failed
one said last stands in the results. A dry run has one process for all. Models are random ones of real shapes.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

OBJECTIVES = {"bert": "masked_lm", "gpt2": "causal_lm", "t5": "span_corruption"}
"""Families that most is measured of, and what they learn."""
STILL = {"bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
         "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "t5": {"dropout_rate": 0.0}}
SHAPES = {"gpt2": ("small", {"vocab_size": 50304}, 1024, 32), "bert": ("base", {"vocab_size": 30522}, 128, 256),
          "t5": ("base", {"vocab_size": 32128}, 512, 64)}
"""By family: a size, config, tokens of a row, rows of a step."""
PEAK = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
        "L4": 121e12, "4090": 165e12, "3090": 71e12, "T4": 65e12}
"""Dense operations a second in 16 bits, of the data sheets; a name that holds another stands before it."""
SECONDS = {"environment": 60, "losses": 240, "resume": 180, "waits": 90, "speed": 300, "documents": 240, "loss": 120,
           "writing": 120, "serving": 60}
"""How long a section may take, the most wanted first."""


class Bench:
    """A folder to work in, and whether all is tiny."""

    def __init__(self, place: Path, tiny: bool) -> None:
        import torch

        self.place, self.tiny = place, tiny
        self.gpu = torch.cuda.is_available() and not tiny

    def numbers(self, family: str = "gpt2") -> str:
        """What is trained in: what this GPU multiplies fastest, T5 never in fp16; fp32 on a CPU."""
        from llmkit.system import machine

        best = machine.gpu_numbers() if self.gpu else "fp32"
        return "fp32" if (family, best) == ("t5", "fp16") else best

    # ---- runs ----

    def text(self) -> str:
        """Documents of made-up words."""
        path = self.place / "text.txt"
        if not path.exists():
            rng = random.Random(0)
            words = ["".join(rng.choice("aeioubcdfghklmnprst") for _ in range(rng.randint(2, 8))) for _ in range(4000)]
            path.write_text("\n\n".join(" ".join(rng.choices(words, k=rng.randint(20, 300)))
                                        for _ in range(100 if self.tiny else 3000)))
        return str(path)

    def recipe(self, name: str, family: str, length: int, rows: int, steps: int, **training: Any) -> dict[str, Any]:
        size, config, data = training.pop("size", "tiny"), training.pop("config", {}), training.pop("data", {})
        return {"name": name, "seed": 1, "backbone": {"family": family, "size": size, "config": config},
                "tokenizer": {"train": {"vocab_size": 500 if self.tiny else 4000}},
                "data": {"train": self.text(), "max_length": length, **data},
                "objective": {"name": OBJECTIVES.get(family, "causal_lm")}, "output_dir": str(self.place / name),
                "training": {"max_steps": steps, "global_batch_size": rows, "learning_rate": 3e-4, "logging_steps": 1,
                             "save_steps": 10_000, "figures": not self.tiny, **training}}

    def fit(self, tree: dict[str, Any]) -> list[dict[str, Any]]:
        """Its lines of metrics.jsonl."""
        from llmkit import fit

        fit(tree)
        lines = (Path(tree["output_dir"]) / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == "train"]

    # ---- sections: each returns what it found ----

    def environment(self) -> dict[str, Any]:
        import torch

        from llmkit.planning.doctor import processors

        found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "cores": os.cpu_count()}
        if self.gpu:
            card = torch.cuda.get_device_properties(0)
            found |= {"gpu": card.name, "memory": card.total_memory, "capability": f"{card.major}.{card.minor}"}
        return {**found, "doctor": [f"{one.about}: {one.said}" for one in processors()]}

    def losses(self) -> dict[str, Any]:
        """Against fp32 on the CPU: how far the first loss and gradient are, and the farthest of all losses."""
        found: dict[str, Any] = {}
        ways = [("cpu", "fp32"), *(("gpu", one) for one in ("fp32", "bf16", "fp16") if self.gpu)]
        for family in OBJECTIVES:
            curves = {}
            for device, precision in ways:
                if (family, precision) == ("t5", "fp16"):
                    continue
                name = f"losses-{family}-{device}-{precision}"
                tree = self.recipe(name, family, 64, 16, 3 if self.tiny else 20, config=STILL[family],
                                   precision=precision, tf32=False, compile=False)
                path = self.place / f"{name}.json"
                path.write_text(json.dumps(tree))
                hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
                if device == "cpu" and not self.gpu:
                    curves[f"{device} {precision}"] = self.fit(tree)
                    continue
                subprocess.run([sys.executable, "-m", "llmkit", "pretrain", str(path)], check=True,
                               capture_output=True, env={**os.environ, **hidden})
                lines = (self.place / name / "metrics.jsonl").read_text().splitlines()
                curves[f"{device} {precision}"] = [one for one in map(json.loads, lines) if one["event"] == "train"]
            first = curves["cpu fp32"]
            found[family] = {way: {
                "first loss": lines[0]["loss"], "off": abs(lines[0]["loss"] / first[0]["loss"] - 1),
                "gradient off": abs(lines[0]["grad_norm"] / first[0]["grad_norm"] - 1),
                "most off": max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(lines, first, strict=True))}
                for way, lines in curves.items()}
        return found

    def resume(self) -> dict[str, Any]:
        """Two unbroken runs, and one that goes on from its middle, with full_determinism and without: bit for bit?"""
        import torch
        from safetensors.torch import load_file

        found: dict[str, Any] = {}
        steps = 4 if self.tiny else 20
        for family in ("gpt2",) if self.tiny else OBJECTIVES:
            for exact in (True,) if self.tiny else (False, True):
                name = f"resume-{family}-{exact}"
                trees = [self.recipe(f"{name}-{i}", family, 32, 8, steps, save_steps=steps // 2, compile=False,
                                     full_determinism=exact) for i in range(3)]
                for tree in trees:
                    self.fit(tree)
                cut = Path(trees[2]["output_dir"])
                shutil.rmtree(max((cut / "checkpoints").iterdir()))
                shutil.rmtree(cut / "model")
                (cut / "summary.json").unlink()
                self.fit(trees[2])
                a, b, c = (load_file(Path(tree["output_dir"]) / "model" / "model.safetensors") for tree in trees)
                found[f"{family}, full_determinism {str(exact).lower()}"] = {
                    "two unbroken runs alike": all(torch.equal(a[one], b[one]) for one in a),
                    "resumed alike": all(torch.equal(a[one], c[one]) for one in a)}
        return found

    def waits(self) -> dict[str, Any]:
        """How often the host waits for the GPU in a step, and where, as torch says it."""
        import torch

        from llmkit.training.step import Stepper

        if not self.gpu:
            return {"not measured": "there is no GPU"}
        found: dict[str, Any] = {}
        usual = Stepper.step
        for family in OBJECTIVES:
            seen: list[str] = []

            def step(stepper: Stepper, batches: Any, seen: list[str] = seen) -> None:
                if stepper.session.state.step != 3:
                    usual(stepper, batches)
                    return
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    torch.cuda.set_sync_debug_mode("warn")
                    try:
                        usual(stepper, batches)
                    finally:
                        torch.cuda.set_sync_debug_mode("default")
                seen += [f"{Path(one.filename).name}:{one.lineno}" for one in caught
                         if "synchroniz" in str(one.message)]

            Stepper.step = step  # type: ignore[method-assign]
            try:
                self.fit(self.recipe(f"waits-{family}", family, 64, 16, 5, compile=False, micro_batch_size=16))
            finally:
                Stepper.step = usual  # type: ignore[method-assign]
            found[family] = {"waits": len(seen), "where": " ".join(seen)}
        return found

    def speed(self) -> dict[str, Any]:
        """Tokens a second after the first lines, and MFU: llmkit, llmkit compiled, a plain loop, the Trainer."""
        found: dict[str, Any] = {}
        for family in ("gpt2",) if self.tiny else SHAPES:
            size, config, length, rows = ("tiny", {"vocab_size": 500}, 32, 4) if self.tiny else SHAPES[family]
            steps = 4 if self.tiny else 40
            data = {} if family == "t5" else {"packing": "blocks"}
            for way, more in (("llmkit", {"compile": False}), ("llmkit, compiled", {"compile": True})):
                if self.tiny and more["compile"]:
                    continue
                tree = self.recipe(f"speed-{family}-{more['compile']}", family, length, rows, steps, size=size,
                                   config=config, data=data, precision=self.numbers(family), **more)
                found[f"{family}, {way}"] = {**self.pace(tree), "in": self.numbers(family)}
            if family != "t5":
                found[f"{family}, plain loop"] = {"tokens/s": self.plain(family, size, config, length, rows)}
                found[f"{family}, Trainer"] = {"tokens/s": self.trainer(family, size, config, length, rows)}
            operations = self.operations(family, size, config, length)
            peak = self.peak() if self.gpu and self.numbers(family) != "fp32" else None
            for way, figures in found.items():
                if way.startswith(family) and peak is not None and "tokens/s" in figures:
                    figures["MFU"] = figures["tokens/s"] * operations / peak
        return found

    def documents(self) -> dict[str, Any]:
        """Tokens a second of rows that hold many short documents: kept apart by a dense mask, by blocks, by lengths."""
        found: dict[str, Any] = {}
        config, length, rows = ({}, 32, 4) if self.tiny else ({"vocab_size": 32000}, 1024, 16)
        for way in ("sdpa", "flex_attention", "flash_attention_2"):
            tree = self.recipe(f"documents-{way}", "llama", length, rows, 4 if self.tiny else 40, config=config,
                               size="tiny" if self.tiny else "small", data={"packing": "documents"},
                               precision=self.numbers(), compile=not self.tiny)
            tree["backbone"]["attn_implementation"] = way
            found[way] = self.pace(tree)
        return found

    def loss(self) -> dict[str, Any]:
        """Tokens a second of GPT-2's shape with the loss in chunks, with all logits at once, and by Liger's kernel."""
        found: dict[str, Any] = {}
        size, config, length, rows = ("tiny", {"vocab_size": 500}, 32, 4) if self.tiny else SHAPES["gpt2"]
        for way, more in (("chunked_loss", {}), ("all logits at once", {"shortcuts": ["target_heads"]}),
                          ("use_liger_kernel", {"use_liger_kernel": True})):
            found[way] = self.pace(self.recipe(
                f"loss-{way}", "gpt2", length, rows, 4 if self.tiny else 20, size=size, config=config,
                precision=self.numbers(), compile=False, data={"packing": "blocks"}, **more))
        return found

    def pace(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The most tokens a second between two lines after the first; why a run is refused here, where it is."""
        from llmkit.system.errors import RequestError

        tree["training"]["logging_steps"] = max(1, tree["training"]["max_steps"] // 4)
        try:
            return {"tokens/s": max(line["tokens_per_second"] for line in self.fit(tree)[1:])}
        except RequestError as error:
            return {"refused": str(error)}

    def model(self, family: str, size: str, config: Mapping[str, Any]) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

        from llmkit import registry

        auto: Any = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}[family]
        sizes = registry.find("backbones", family).sizes[size]
        return auto.from_config(AutoConfig.for_model(family, **{**sizes, **config}))

    def rows(self, family: str, vocabulary: int, length: int, rows: int) -> tuple[Any, Any]:
        """(ids, labels), (rows, length): of BERT a seventh is asked for."""
        import torch

        ids = torch.randint(5, vocabulary, (rows, length))
        labels = ids.clone()
        if family == "bert":
            labels[torch.rand(ids.shape) > 0.15] = -100
        return ids, labels

    def plain(self, family: str, size: str, config: Mapping[str, Any], length: int, rows: int) -> float:
        """nanoGPT's loop in few words: autocast, backward, clip, fused AdamW."""
        import torch

        device = "cuda" if self.gpu else "cpu"
        model = self.model(family, size, config).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
        ids, labels = (part.to(device) for part in self.rows(family, model.config.vocab_size, length, rows))
        micro, steps = min(rows, max(1, 16384 // length)), 2 if self.tiny else 20
        began, dtype = 0.0, torch.float16 if self.numbers() == "fp16" else torch.bfloat16
        for step in range(steps + 2):
            if step == 2:
                self.wait()
                began = time.perf_counter()
            for start in range(0, rows, micro):
                with torch.autocast(device, dtype, enabled=self.numbers() != "fp32"):
                    part = slice(start, start + micro)
                    loss = model(input_ids=ids[part], labels=labels[part]).loss
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        self.wait()
        return steps * rows * length / (time.perf_counter() - began)

    def trainer(self, family: str, size: str, config: Mapping[str, Any], length: int, rows: int) -> float:
        """transformers' Trainer, its start included."""
        from transformers import Trainer, TrainingArguments

        model, steps = self.model(family, size, config), 2 if self.tiny else 25
        ids, labels = self.rows(family, model.config.vocab_size, length, 4 * rows)
        micro = min(rows, max(1, 16384 // length))
        options = TrainingArguments(
            output_dir=str(self.place / "trainer"), max_steps=steps, per_device_train_batch_size=micro,
            gradient_accumulation_steps=rows // micro, bf16=self.numbers() == "bf16", fp16=self.numbers() == "fp16",
            report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True, use_cpu=not self.gpu)
        data = [{"input_ids": one, "labels": other} for one, other in zip(ids, labels, strict=True)]
        done = Trainer(model=model, args=options, train_dataset=data).train()  # type: ignore[arg-type]
        return float(steps * rows * length / done.metrics["train_runtime"])

    def operations(self, family: str, size: str, config: Mapping[str, Any], length: int) -> float:
        """Of a token: 6 a number of its matrices, the head's at its targets only, and 12 x layers x width x length."""
        from torch import nn

        model = self.model(family, size, config)
        said, words = model.config, model.config.vocab_size
        looked_up = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
        inside = sum(part.numel() for part in model.parameters()
                     if part.dim() == 2 and id(part) not in looked_up and words not in part.shape)
        head = words * said.hidden_size * (0.15 if family == "bert" else 1.0)
        return float(6 * (inside + head) + 12 * said.num_hidden_layers * said.hidden_size * length)

    def peak(self) -> float | None:
        """This card's, None where no data sheet is known here: then there is no MFU."""
        import torch

        name = torch.cuda.get_device_name()
        return next((rate for card, rate in PEAK.items() if card in name), None)

    def wait(self) -> None:
        import torch

        if self.gpu:
            torch.cuda.synchronize()

    def writer(self) -> Path:
        """A decoder of GPT-2's shape that never ends its text, with a tokenizer."""
        place = self.place / "writer"
        if not place.is_dir():
            more = {} if self.tiny else {"size": "small"}
            tree = self.recipe("writer-run", "gpt2", 64, 8, 1, compile=False, **more)
            self.fit(tree)
            shutil.copytree(Path(tree["output_dir"]) / "model", place)
        return place

    def writing(self) -> dict[str, Any]:
        """Tokens a second of one prompt and of many: the most likely token each time, sampled, by compiled steps."""
        from llmkit.inference.writing.opening import uncompiled
        from llmkit.inference.writing.options import Options
        from llmkit.inference.writing.writer import Writer

        writer, found, count = Writer.open(str(self.writer())), dict[str, Any](), 4 if self.tiny else 128
        ids = writer.opened.tokenizer("once upon a time").input_ids
        why = uncompiled(writer.opened, writer.device)
        ways: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"temperature": 1.0, "seed": 1}}
        ways |= {} if why else {"greedy, compiled": {"compile": True}}
        for rows in (1, 2) if self.tiny else (1, 32):
            for name, more in ways.items():
                writer.write([ids] * rows, Options(max_new_tokens=count if "compile" in more else 2, **more))
                began = time.perf_counter()
                texts = writer.write([ids] * rows, Options(max_new_tokens=count, **more))
                tokens = sum(len(one.ids) for text in texts for one in text)
                found[f"{rows} prompts, {name}"] = {"tokens/s": tokens / (time.perf_counter() - began)}
        return {**found, "compiled": {"not measured": why}} if why else found

    def serving(self) -> dict[str, Any]:
        """Tokens a second of the server's engine, one text and many at once."""
        from llmkit.inference.writing.options import Options
        from llmkit.inference.writing.sampling import Choosing
        from llmkit.serving.engine import Engine
        from llmkit.serving.jobs import Job, Wish
        from llmkit.serving.served import WritingModel, named, open_all

        one = next(iter(open_all(named([str(self.writer())]), {}).values()))
        assert isinstance(one, WritingModel)
        assert isinstance(one.engine, Engine)
        found, count = dict[str, Any](), 4 if self.tiny else 64
        for rows in (1, 2) if self.tiny else (1, 32):
            wish = Wish(Options(max_new_tokens=count), Choosing(), frozenset())
            for number in range(rows):
                one.engine.admit(Job([5, 6, 7], wish, number, 1, lambda *event: None))
            began = time.perf_counter()
            while one.engine.busy:
                one.engine.turn()
            found[f"{rows} texts at once"] = {"tokens/s": rows * count / (time.perf_counter() - began)}
        return found


def page(results: Mapping[str, Any], tiny: bool) -> str:
    """GPU_RESULTS.md: a table a section."""
    if tiny:
        lines = ["# A dry run: nothing was measured on a GPU", "",
                 "It ran on a CPU, with tiny shapes: its speeds say nothing.", ""]
    else:
        lines = ["# What was measured on a GPU", ""]
    if missing := [section for section in SECONDS if section not in results]:
        lines += [f"Not run: {', '.join(missing)}.", ""]
    for section, found in results.items():
        lines += [f"## {section}", "", "| | |", "|---|---|"]
        for name, figures in found.items():
            pairs = figures.items() if isinstance(figures, Mapping) else [("", figures)]
            words = ", ".join(f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in pairs)
            lines.append(f"| {name} | {' '.join(str(words).split())} |".replace("||", "/"))
        lines.append("")
    return "\n".join(lines)


def measured(section: str, place: Path, tiny: bool, work: Callable[..., Any] = subprocess.run) -> dict[str, Any]:
    """What a section found in a process of its own, or how it failed."""
    variables = {**os.environ, "LLMKIT_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "LLMKIT_CACHE": str(place / "cache")}
    words = [sys.executable, __file__, "--section", section, "--work", str(place), *(["--tiny"] if tiny else [])]
    try:
        done = work(words, capture_output=True, text=True, timeout=SECONDS[section], env=variables)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took longer than {SECONDS[section]} s"}
    if done.returncode:
        return {"failed": f"exit status {done.returncode}", "it said": done.stderr[-600:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def dry(section: str, bench: Bench) -> dict[str, Any]:
    """What a section of a dry run found in this process, or how it failed."""
    try:
        found: dict[str, Any] = getattr(bench, section)()
    except Exception as error:  # whatever it is, the other sections are tried
        return {"failed": type(error).__name__, "it said": str(error)[-600:]}
    return found


def has_gpu() -> bool:
    """Whether there is a GPU to measure."""
    import torch

    return bool(torch.cuda.is_available())


def main(given: Sequence[str] | None = None) -> int:
    words = argparse.ArgumentParser(description="Measure llmkit on a GPU.")
    words.add_argument("--tiny", action="store_true")
    words.add_argument("--out", type=Path, default=Path())
    words.add_argument("--only", default=",".join(SECONDS))
    words.add_argument("--section", help=argparse.SUPPRESS)
    words.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = words.parse_args(given)
    if asked.section is not None:
        print(json.dumps(getattr(Bench(asked.work, asked.tiny), asked.section)()))
        return 0
    if wrong := [one for one in asked.only.split(",") if one not in SECONDS]:
        words.error(f"--only {wrong[0]}: there is {', '.join(SECONDS)}")
    if not asked.tiny and not has_gpu():
        words.error("torch sees no GPU here, and on a CPU nothing of this would be measured; --tiny is a dry run")
    results: dict[str, Any] = {}
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llmkit-gpu-") as place:
        if asked.tiny:
            os.environ.setdefault("LLMKIT_CACHE", f"{place}/cache")
        bench = Bench(Path(place), asked.tiny)
        for section in asked.only.split(","):
            began = time.monotonic()
            results[section] = dry(section, bench) if asked.tiny else measured(section, Path(place), asked.tiny)
            print(f"{section}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            (asked.out / "GPU_RESULTS.md").write_text(page(results, asked.tiny))
    return 1 if any("failed" in found for found in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
