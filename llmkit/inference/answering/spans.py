"""The answer as a span of a passage, by a model that points at answers: all passages are compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.data.files import Place
from llmkit.inference.evaluate import Ready, make_ready
from llmkit.inference.search import Hit
from llmkit.recipe.seams import Answering
from llmkit.system.errors import RequestError
from llmkit.system.finite import check_all
from llmkit.tasks.base import Encoded, Prediction
from llmkit.tasks.question_answering import QuestionAnswering

BETWEEN = "\n\n"
"""Stands between passages: no span reaches over it, for each passage is read alone."""


@dataclass
class Pointer:
    """A model that points at answers, kept open."""

    ready: Ready
    task: QuestionAnswering
    size: int = 16
    """Parts of passages at once."""

    @classmethod
    def open(cls, model: str | Path, task: Answering, max_length: int | None = None) -> Pointer:
        """Open a run of question answering, or a model with its head."""
        ready = make_ready(str(model), task=task, max_length=max_length)
        chosen = ready.learner.objective
        if not isinstance(chosen, QuestionAnswering):
            raise RequestError(f"{model} points at no answers.")
        return cls(ready, chosen)

    def best(self, question: str, hits: Sequence[Hit]) -> Prediction:
        """The best span of all passages: {"answer", "score", "passage", "start", "end"}.

        Spans of different passages are compared by the sums of their logits, as parts of one long text are, and the
        score is the softmax over all that were compared (Clark and Gardner 2018, section 3.2, "shared-norm").
        `passage` counts from 1; start and end are characters of its text. All three are None where there is none.
        """
        import torch

        from llmkit.training.evaluate import Room, each
        from llmkit.training.spread.processes import accelerate, apart

        rows = [{"question": question, "context": hit.text} for hit in hits]
        places = [Place(hit.file, hit.line) for hit in hits]
        part = Encoded(self.task.featured(list(zip(rows, places, strict=True)), self.ready.setup, []), rows)
        with apart():
            accelerator = accelerate("fp32", Path())
        learner = self.ready.learner.to(accelerator.device)
        outcomes: dict[int, Any] = {}
        with torch.inference_mode():
            for numbers, _, said in each(accelerator, learner, [part], self.ready.setup, Room(self.size),
                                         lambda batch: learner(batch, "predict")):
                check_all(said, "the passages")
                outcomes |= zip(numbers, said, strict=True)
        starts = [sum(len(hit.text) + len(BETWEEN) for hit in hits[:number]) for number in range(len(hits))]
        shifted = [(nothing, [(score, start + starts[owner], end + starts[owner]) for score, start, end in spans])
                   for owner, (nothing, spans) in ((part.owners[row], outcomes[row]) for row in range(len(part)))]
        context = BETWEEN.join(hit.text for hit in hits)
        found = self.task.combine(shifted, {"question": question, "context": context}, self.ready.setup)
        if found["start"] is None:
            return {"answer": None, "score": found["score"], "passage": None, "start": None, "end": None}
        number = max(i for i, start in enumerate(starts) if start <= found["start"])
        return {"answer": found["answer"], "score": found["score"], "passage": number + 1,
                "start": found["start"] - starts[number], "end": found["end"] - starts[number]}
