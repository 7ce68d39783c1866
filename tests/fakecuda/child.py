"""Does what a test asks on the pretend GPU, in a process of its own: a line of JSON in, a line of JSON out.

    {"do": "train", "recipe": {…}}  ->  {"said": {"loss": 5.2}, "waits": [["read a number", "training/step.py:98", 1]]}
    or, where that raises:          ->  {"raised": "RuntimeError: … (training/step.py:98)"}

The first argument is the device's library.
"""
# ruff: noqa: E402

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fakecuda import device

device.install()  # before anything of llmkit is imported, which binds what this changes

import logging

import llmkit
from llmkit import recipe as recipes
from llmkit.training import evaluate as evaluation
from llmkit.training.fit import fit
from llmkit.training.step import Stepper

logging.disable(logging.WARNING)


# ---- what can be asked ----


def train(recipe: dict[str, Any], watched: tuple[int, ...] = (3,), flash: bool = False, **_: Any) -> Any:
    """A run, with its evaluations, its checkpoints and its model; waits are those of a step, without its log.

    `judged`: the rows of each batch of its evaluations. `flash`: whether the package flash-attn is there.
    """
    with flash_attention() if flash else nullcontext():
        return trained(recipe, watched)


@contextmanager
def flash_attention() -> Iterator[None]:
    """A stand-in for FlashAttention's kernels, of plain operations on the device; it reads no number."""
    import torch
    from transformers import PreTrainedModel
    from transformers import modeling_flash_attention_utils as utils

    from llmkit.planning import attention

    def varlen(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
               dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
               window_size: tuple[int, int] = (-1, -1), deterministic: bool = False) -> Any:
        if q.dtype not in (torch.bfloat16, torch.float16):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        places = torch.arange(len(q), device=q.device)
        row = (places[:, None] >= cu_seqlens_q[None]).sum(1)
        seen = row[:, None] == row[None]
        seen = seen & (places[:, None] >= places[None]) if causal else seen
        return torch.nn.functional.scaled_dot_product_attention(
            *(one.transpose(0, 1)[None] for one in (q, k, v)), attn_mask=seen, scale=softmax_scale,
            enable_gqa=True)[0].transpose(0, 1)

    def plain(q: Any, k: Any, v: Any, **options: Any) -> Any:
        edges = torch.arange(len(q) + 1, device=q.device, dtype=torch.int32) * q.shape[1]
        long = q.shape[1]
        return varlen(*(one.flatten(0, 1) for one in (q, k, v)), edges, edges, long, long, **options).unflatten(
            0, q.shape[:2])

    with (patch.object(utils, "_loaded_implementation", None),
          patch.object(utils, "_lazy_imports", lambda *names, **options: (
              plain, varlen, None, utils._pad_input, utils._unpad_input)),
          patch.object(PreTrainedModel, "_flash_attn_can_dispatch", lambda self, *of, **more: True),
          patch("transformers.modeling_utils.is_kernels_available", lambda *of: False),
          patch.object(attention, "find_spec", lambda name: object())):
        yield


def trained(recipe: dict[str, Any], watched: tuple[int, ...]) -> Any:
    """What `train` says, with the kernels that are there."""
    usual, seen, judged, visited = Stepper.step, [], list[int](), evaluation.visited

    def step(self: Stepper, batches: Any) -> None:
        if self.session.state.step not in watched:
            return usual(self, batches)
        with device.WAITS.recorded() as counts:
            usual(self, batches)
        seen.append(dict(counts))
        return None

    def rows(*args: Any, **given: Any) -> Any:
        for numbers, batch in visited(*args, **given):
            judged.append(len(numbers))
            yield numbers, batch

    with patch.object(Stepper, "step", step), patch.object(evaluation, "visited", rows):
        summary = fit(recipes.load(recipe))
    totals: dict[tuple[str, str], int] = {}
    for counts in seen:
        for wait, count in counts.items():
            totals[wait] = totals.get(wait, 0) + count
    waits = [[*wait, count / len(seen)] for wait, count in totals.items()]
    return {"loss": summary["train_loss"], "evaluation": summary.get("evaluation"), "device": summary["device"],
            "judged": judged}, waits


def evaluate(model: str, data: str, **options: Any) -> Any:
    return llmkit.evaluate(model, data, **options)["metrics"]


def predict(model: str, data: str, **options: Any) -> Any:
    return [str(one) for one in llmkit.predict(model, data, **options)]


def write(model: str, prompts: list[str], alone: bool = False, dtype: str = "float32", **options: Any) -> Any:
    """What a model writes behind prompts, together or each `alone`; where `compile` is asked for, by calls that stand
    in for compiled ones, and ask no mask for its numbers, as traced code doesn't: of each is told what shapes it has.
    """
    from llmkit.backbones.kernels.privates import unasked
    from llmkit.inference.writing.options import Options
    from llmkit.inference.writing.writer import Writer

    calls: list[Any] = []

    def stand_in(call: Callable[..., Any], **asked: Any) -> Callable[..., Any]:
        def called(**given: Any) -> Any:
            calls.append([asked["mode"], [list(tensor.shape) for tensor in given.values() if hasattr(tensor, "shape")]])
            with unasked():
                return call(**given)
        return called

    writer = Writer.open(model, dtype=dtype)
    ids, wanted = [writer.ids(prompt) for prompt in prompts], Options(**options)
    some = [[number] for number in range(len(ids))] if alone else [list(range(len(ids)))]
    with (patch("torch.compile", stand_in), patch("llmkit.inference.writing.opening.lacks_compiler", lambda: None),
          device.WAITS.recorded() as counts):
        made = [one for numbers in some
                for one in writer.write([ids[number] for number in numbers], wanted, numbers=numbers)]
    said = [[[one.text, one.tokens, one.score] for one in completions] for completions in made]
    return {"said": said, "calls": calls}, [[*wait, count] for wait, count in counts.items()]


def noise(seeds: list[int], words: int, count: int) -> Any:
    """Gumbel noise that is made on the device: (count, rows, words)."""
    from itertools import islice

    from llmkit.objectives.shared.chance import gumbel

    return [one.tolist() for one in islice(gumbel(seeds, words, device.GPU), count)]


def generate(model: str, prompt: str = "the cat", dtype: str | None = None, **options: Any) -> Any:
    from llmkit.inference.generate import Options

    found = llmkit.generate(prompt, model, Options(**options), dtype=dtype)
    return [[one.text, one.tokens] for one in found.completions]


def score(model: str, texts: list[str], **options: Any) -> Any:
    return [found.logprob for found in llmkit.score(model, texts, **options)]


def search(model: str, where: str, query: str = "a dog") -> Any:
    return [[hit.text, hit.score] for hit in llmkit.search(query, where, model)]


def serve(model: str, texts: int = 1, bf16: bool = True, **settings: Any) -> Any:
    """The engine that a server would have, and the texts that it writes together; `bf16`: whether the GPU has it."""
    import torch

    with patch.object(torch.cuda, "is_bf16_supported", lambda **_: bf16):
        return served(model, texts, **settings)


def served(model: str, texts: int = 1, **settings: Any) -> Any:
    """What a server would do on the GPU as it is."""
    from llmkit.inference.writing.options import Options
    from llmkit.inference.writing.sampling import Choosing
    from llmkit.serving.jobs import Job, Piece, Wish
    from llmkit.serving.served import named, open_all

    there: Any = next(iter(open_all(named([model]), {}).values()))
    if there.kind == "embedding":
        return {"engine": "none", "width": len(there.embedder.embed(["the cat saw"])[0])}
    heard: list[str] = [""] * texts
    failed: list[Any] = []

    def hear(text: int, event: Any) -> None:
        if isinstance(event, Piece):
            heard[text] += event.text
        elif event.error is not None:
            failed.append(event.error)

    for number in range(texts):
        wish = Wish(Options(max_new_tokens=6), Choosing(**settings), frozenset())
        ids = there.writer.ids("the cat saw" if number % 2 else "a dog")
        there.engine.admit(Job(ids, wish, number, 1, lambda _, event, text=number: hear(text, event)))
    while there.engine.busy:
        there.engine.turn()
    if failed:
        raise failed[0]
    return {"engine": type(there.engine).__name__, "texts": heard, "dtype": str(there.writer.opened.model.dtype)}


def run(code: str) -> None:
    """An expression with torch in it."""
    import torch

    eval(code, {"torch": torch})


WORK: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (train, evaluate, predict, write, noise, generate, score, search, serve, run)}


# ---- asked and answered ----


def answered(asked: dict[str, Any]) -> dict[str, Any]:
    """What one line of JSON says of the other."""
    work = WORK[asked.pop("do")]
    try:
        with device.pretending():
            if work in (train, write):
                said, waits = work(**asked)
            else:
                with device.WAITS.recorded() as counts:
                    said = work(**asked)
                waits = [[*wait, count] for wait, count in counts.items()]
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error} ({place(error)})"}
    return {"said": said, "waits": waits}


def place(error: BaseException) -> str:
    """Llmkit's line that an error came through last, and the last one of all."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith((device.HERE, device.TORCH))]
    ours = [frame for frame in frames if "/llmkit/" in frame.filename and "site-packages" not in frame.filename]
    return " <- ".join(f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}"
                       for frame in (*ours[-1:], *frames[-1:]))


def main() -> None:
    """Answer until there is nothing more to read; what libraries print goes to the other stream."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        out.write(json.dumps(answered(json.loads(line)), default=str) + "\n")


if __name__ == "__main__":
    main()
