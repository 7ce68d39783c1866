"""Prefix memory: how much of a prompt is known, and what is kept."""

import torch

from llmkit.backbones.kernels.packed_decoder import States
from llmkit.inference.writing.memory import PrefixMemory, pairs_of


def states(length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of one layer, 0, 1, 2 … by place."""
    keys = torch.arange(float(length)).expand(1, 1, 1, length).transpose(2, 3)
    return [(keys, -keys)]


def empty() -> States:
    nothing = torch.zeros(1, 1, 0, 1)
    return States([nothing], [nothing], [0])


def recalled(memory: PrefixMemory, prompt: list[int]) -> tuple[int, list[float]]:
    cache = empty()
    shared = memory.recall(prompt, cache)
    (keys, _), = pairs_of(cache)
    return shared, keys.flatten().tolist()


def test_what_a_prompt_begins_with_is_known_but_for_its_last_token():
    memory = PrefixMemory()
    memory.keep([5, 6, 7], states(3))
    assert recalled(memory, [5, 6, 8, 9]) == (2, [0.0, 1.0])
    assert recalled(memory, [5, 6, 7]) == (2, [0.0, 1.0])
    assert recalled(memory, [6, 5]) == (0, [])


def test_the_text_that_shares_most_is_taken_if_that_is_enough():
    memory = PrefixMemory(least=2, limit=1000)
    memory.keep([1, 2, 3, 4], states(4))
    memory.keep([1, 2, 9], states(3))
    assert recalled(memory, [1, 2, 3, 7, 7])[0] == 3
    assert recalled(memory, [1, 8])[0] == 0


def test_a_copy_is_taken_so_that_what_is_written_on_changes_nothing():
    memory = PrefixMemory()
    memory.keep([5, 6, 7], states(3))
    cache = empty()
    memory.recall([5, 6, 7], cache)
    cache.keys[0].fill_(9.0)
    assert recalled(memory, [5, 6, 7]) == (2, [0.0, 1.0])


def test_without_a_limit_the_latest_text_alone_is_kept_and_with_one_the_latest_that_fit():
    alone, several = PrefixMemory(), PrefixMemory(limit=4 * 8 + 2 * 8)  # 8 bytes a place
    for memory in (alone, several):
        for ids in ([1], [2, 2], [3, 3, 3, 3], [2, 2, 2]):
            memory.keep(ids, states(len(ids)))
    assert [one.ids for one in alone.kept] == [[2, 2, 2]]
    assert [one.ids for one in several.kept] == [[2, 2, 2]]
    several.keep([4, 4, 4], states(3))
    assert [one.ids for one in several.kept] == [[2, 2, 2], [4, 4, 4]]
    several.keep([4, 4, 4, 4], states(4))  # it goes on from one of them
    assert [one.ids for one in several.kept] == [[4, 4, 4, 4]]
