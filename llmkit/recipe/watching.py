"""Plug-ins of people's own: a mistake in one is told as that, with the plug-in, the method and the line.

The base classes of plug-ins call `watch` on every class that is made from them outside of llmkit. The methods of such a
class are then looked at as they are called: what they raise, and whether they return what `promises` says of them.
llmkit's own plug-ins are as they are written: a mistake in one of those is llmkit's.
"""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

from llmkit.recipe.promises import Promise, shown
from llmkit.system.errors import LlmkitError, RequestError, no_memory, no_room


def watch(cls: type[Any], promises: Mapping[str, Promise]) -> None:
    """Have the methods of a class looked at that it defines itself, if it is none of llmkit's."""
    if foreign(cls):
        for name, promise in promises.items():
            member = vars(cls).get(name)
            if inspect.isfunction(member):
                setattr(cls, name, _watched(member, name, promise))
            elif isinstance(member, classmethod):
                setattr(cls, name, classmethod(_watched(member.__func__, name, promise)))
            elif isinstance(member, property) and member.fget is not None:
                setattr(cls, name, property(_watched(member.fget, name, promise), doc=member.__doc__))
            elif name in vars(cls) and not callable(getattr(cls, name)) and callable(getattr(super(cls, cls), name)):
                raise broken(called(cls, name), f"is no method, but {shown(member)}", promise.words)


def foreign(plugin: object) -> bool:
    """Whether a plug-in, or its class, is none of llmkit's."""
    cls = plugin if inspect.isclass(plugin) else type(plugin)
    return cls.__module__.partition(".")[0] != "llmkit"


def _watched(method: Callable[..., Any], name: str, promise: Promise) -> Callable[..., Any]:
    @wraps(method)
    def watched(plugin: Any, *given: Any, **named: Any) -> Any:
        with Told(called(plugin, name), promise.words):
            value = method(plugin, *given, **named)
            if promise.each and isinstance(value, Iterator):
                return _each(plugin, name, promise, value)
            values = value if promise.each and isinstance(value, Iterable) else (value,)
            why = next((why for one in values if (why := promise.fault(plugin, one))), "")
        if why:
            raise broken(called(plugin, name), why, promise.words)
        return value

    return watched


def _each(plugin: Any, name: str, promise: Promise, values: Iterator[Any]) -> Iterator[Any]:
    """What a generator yields, looked at as it comes."""
    while True:
        with Told(called(plugin, name), promise.words):
            try:
                value = next(values)
            except StopIteration:
                return
        if why := promise.fault(plugin, value):
            raise broken(called(plugin, name), why, promise.words)
        yield value


class Told:
    """While the block runs, what goes wrong in somebody's own code is told as that: a RequestError that says where.

    Errors of llmkit pass as they are, and so does what is no mistake of the code: a full disk, memory that isn't there.
    """

    def __init__(self, what: str, words: str) -> None:
        self.what, self.words = what, words

    def __enter__(self) -> None:
        """Nothing is wrong yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        """Tell it."""
        if not isinstance(error, Exception) or isinstance(error, LlmkitError | BrokenPipeError):
            return
        if not (no_room(error) or no_memory(error)):
            said = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            raise RequestError(f"{self.what} fails: {said}{own_line(error)}. {wanted_words(self.words)}") from error


def own_line(error: BaseException) -> str:
    """`, in FILE:LINE` of somebody's own code, where it happened in some: neither llmkit's nor a library's line."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f", in {error.filename}:{error.lineno}"
    libraries = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib", "scripts")]
    others = (str(Path(__file__).parents[1]), *libraries, "<")
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return f", in {lines[-1].filename}:{lines[-1].lineno}" if lines else ""


def broken(what: str, why: str, words: str) -> RequestError:
    """The error of a method that returned something else than it promised."""
    return RequestError(f"{what} {why}. {wanted_words(words)}")


def wanted_words(words: str) -> str:
    """`It must return …`, where something is wanted."""
    return f"It must return {words}." if words else ""


def called(plugin: object, method: str) -> str:
    """`my.objective.Mine.draw()`."""
    cls = plugin if inspect.isclass(plugin) else type(plugin)
    return f"{cls.__module__}.{cls.__qualname__}.{method}()"


# ---- what isn't there ----


def lacking(plugin: object, method: str, promises: Mapping[str, Promise]) -> RequestError:
    """The error where a plug-in is asked for what it doesn't have."""
    return RequestError(f"{called(plugin, method)} is asked for, and the class doesn't define it. "
                        f"{wanted_words(promises[method].words)}")


class Required:
    """In the place of an attribute that every plug-in has to have: RequestError where one hasn't."""

    def __init__(self, words: str) -> None:
        self.words, self.name = words, ""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def __get__(self, plugin: object, owner: type[Any]) -> Any:
        raise RequestError(f"{owner.__module__}.{owner.__qualname__} has no {self.name!r}, {self.words}.")


def required(words: str) -> Any:
    """Stands in a base class for an attribute that has no value there: `shapes: ClassVar[…] = …`."""
    return Required(words)
