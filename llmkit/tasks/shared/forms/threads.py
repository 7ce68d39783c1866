"""Trees of messages, as OpenAssistant has them: flat, each with its parent's id, or replies in replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place

Node = dict[str, Any]
FLAT = {"message_id", "parent_id", "text", "role"}


def is_flat(row: Mapping[str, Any]) -> bool:
    """Whether a row is one message of a tree: {"message_id": "b", "parent_id": "a", "text": "Hello.", "role": …}."""
    return row.keys() >= FLAT


def is_tree(row: Mapping[str, Any]) -> bool:
    """Whether a row is a whole tree: {"prompt": {"text": "Hi", "role": "prompter", "replies": […]}}."""
    top = row.get("prompt")
    return isinstance(top, Mapping) and top.keys() >= {"text", "role", "replies"}


def best(node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The messages from a first one on, at each step with the best reply: of the lowest rank, else the first.

    Replies that were deleted are passed over.
    """
    at: Mapping[str, Any] | None = node
    while at is not None:
        yield {"role": at["role"], "content": at["text"]}
        replies = [one for one in at.get("replies") or () if not one.get("deleted")]
        at = min(replies, key=_rank, default=None)


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return float("inf") if rank is None else float(rank)


def grown(rows: Sequence[tuple[Mapping[str, Any], Place]]) -> tuple[list[tuple[Node, Place]], int]:
    """(trees of flat messages, in the order of their first ones; how many messages have a parent that isn't there)."""
    nodes: dict[Any, Node] = {row["message_id"]: {**row, "replies": []} for row, _ in rows}
    trees, lost = list[tuple[Node, Place]](), 0
    for row, place in rows:
        parent = row["parent_id"]
        if parent in (None, ""):
            trees.append((nodes[row["message_id"]], place))
        elif parent in nodes:
            nodes[parent]["replies"].append(nodes[row["message_id"]])
        else:
            lost += 1
    return trees, lost


def conversations(rows: Rows, note: list[str], name: str) -> Rows:
    """Rows with a conversation for each tree; all others as they are. What was made of trees is added to `note`."""
    flat, trees, taken, lost = list[tuple[Mapping[str, Any], Place]](), 0, 0, 0

    def made(node: Mapping[str, Any], place: Place) -> tuple[dict[str, Any], Place]:
        nonlocal trees, taken
        messages = list(best(node))
        trees, taken = trees + 1, taken + len(messages)
        return {"messages": messages}, place

    total = 0
    for row, place in rows:
        if is_flat(row):
            flat.append((row, place))
            total += 1
        elif is_tree(row):
            total += _size(row["prompt"])
            yield made(row["prompt"], place)
        else:
            yield row, place
    grown_trees, lost = grown(flat)
    yield from (made(node, place) for node, place in grown_trees)
    if total:
        said = (f"{name}: {total:,} messages stand in {trees:,} trees; of each the best reply at every step makes one "
                f"conversation, and {total - taken:,} other messages are left out")
        said += f", {lost:,} of them because the message that they reply to isn't there" if lost else ""
        note += [said] if said not in note else []


def _size(node: Mapping[str, Any]) -> int:
    return 1 + sum(map(_size, node.get("replies") or ()))
