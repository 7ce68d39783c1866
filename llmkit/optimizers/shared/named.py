"""Classes of other libraries as optimizers: torch.optim's, pytorch-optimizer's, or one's own."""

from __future__ import annotations

import inspect
import io
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass

from llmkit.optimizers.base import Learned, Optimizer, groups
from llmkit.recipe.registry import OPTIONS, name_of
from llmkit.system.errors import RequestError

OURS = ("self", "params", "lr", "weight_decay")
"""What a class is told by the run: its other arguments are its options."""


class Named(Optimizer):
    """A class made from torch.optim.Optimizer; its own arguments are the options, but for rate and weight decay."""

    cls: ClassVar[type[torch.optim.Optimizer]]

    @property
    def decays(self) -> bool:
        """Whether its class has a weight decay."""
        return "weight_decay" in arguments(self.cls)

    def check(self) -> None:
        """A step is made, saved, read and made again: what can't be is refused before anything is loaded."""
        try:
            first, second = Trial(self), Trial(self)
            first.step(1)
            second.take(first)
            both = [tuple(one.step(2)) for one in (first, second)]
        except errors_of(self.cls) as error:
            raise RequestError(f"optimizer: {name_of(self)} can't be used so: {type(error).__name__}: "
                               f"{' '.join(str(error).split())[:300]}") from error
        if not all(map(torch.equal, *both)):
            raise RequestError(f"optimizer: {name_of(self)} doesn't go on from what it saves as it would have gone on; "
                               "a run couldn't be resumed.")

    def make(self, learned: Sequence[Learned]) -> torch.optim.Optimizer:
        """The class, with what the recipe says."""
        parts = groups(learned)
        for part in parts if not self.decays else ():
            del part["weight_decay"]
        most = max((one.learning_rate for one in learned), default=0.0)
        return self.cls(parts, lr=most, **self.options())  # type: ignore[call-arg]

    def options(self) -> dict[str, Any]:
        """What the recipe says: lists are tuples where the class has tuples."""
        said: dict[str, Any] = vars(self)
        return {name: tuple(said[name]) if isinstance(about.default, tuple) and isinstance(said[name], list)
                else said[name] for name, about in arguments(self.cls).items() if name in said}


class Trial:
    """A matrix and a vector that are moved by gradients which are the same in each trial."""

    def __init__(self, named: Named) -> None:
        numbers = torch.linspace(-1, 1, 68)
        self.parameters = [torch.nn.Parameter(part.clone()) for part in (numbers[:64].view(8, 8), numbers[64:])]
        self.made = named.make([Learned(str(i), parameter, 1e-3, 1e-2, False, ())
                                for i, parameter in enumerate(self.parameters)])

    def step(self, number: int) -> Iterator[torch.Tensor]:
        """Where a step brings them."""
        for parameter in self.parameters:
            parameter.grad = torch.cos(parameter.detach() * number)
        self.made.step()
        return (parameter.detach().clone() for parameter in self.parameters)

    def take(self, other: Trial) -> None:
        """Go on from where another is, by what a checkpoint would hold of it."""
        file = io.BytesIO()
        torch.save(other.made.state_dict(), file)
        file.seek(0)
        with torch.no_grad():
            for mine, theirs in zip(self.parameters, other.parameters, strict=True):
                mine.copy_(theirs)
        self.made.load_state_dict(torch.load(file, weights_only=True))


def around(found: type[Any], name: str) -> type[Optimizer]:
    """The optimizer that a class of another library is; RequestError where it is none that a run can use."""
    if not issubclass(found, torch.optim.Optimizer):
        raise RequestError(f"{name} must be made from llmkit.optimizers.base.Optimizer or torch.optim.Optimizer to be "
                           "an optimizer.")
    own = arguments(found)
    if "lr" not in own:
        raise RequestError(f"{name} takes no lr: a run couldn't tell it its learning rate.")
    if hasattr(found, "train") and hasattr(found, "eval"):
        raise RequestError(f"{name} has modes for training and evaluation, which a run doesn't turn; schedule_free is "
                           "llmkit's own of that kind.")
    options = [(option, Any) if about.default is about.empty else (option, Any, usual(about.default))
               for option, about in own.items() if option not in OURS and sayable(about.default)]
    needed = sorted(options, key=len)  # what has no default stands first
    plain = make_dataclass(found.__name__, needed, bases=(Named,), frozen=True,
                           namespace={"cls": found, "__doc__": found.__doc__})
    made: Any = dataclass(config={**OPTIONS, "use_attribute_docstrings": False})(plain)
    made.__module__ = name  # by which a recipe calls it
    return made  # type: ignore[no-any-return]


def arguments(cls: type[Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class that have names."""
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: about for name, about in inspect.signature(cls).parameters.items() if about.kind in plain}


def usual(default: Any) -> Any:
    """A field's default; one that could be changed is made anew for each."""
    return field(default_factory=lambda: list(default)) if isinstance(default, list) else default


def sayable(default: Any) -> bool:
    """Whether a recipe can say what an argument is by default: others stay as the class has them."""
    if isinstance(default, list | tuple):
        return all(map(sayable, default))
    return default is None or default is inspect.Parameter.empty or isinstance(default, bool | int | float | str)


def errors_of(cls: type[Any]) -> tuple[type[BaseException], ...]:
    """What a class may raise that doesn't like its options: Python's, torch's, and its own library's errors."""
    root = cls.__module__.partition(".")[0]
    own = {error for name, module in list(sys.modules.items()) if name.partition(".")[0] == root
           for error in vars(module).values() if inspect.isclass(error) and issubclass(error, Exception)}
    return (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError, AssertionError,
            ImportError, pickle.UnpicklingError, *own)
