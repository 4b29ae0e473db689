"""The cache that grows in place, against transformers' DynamicCache, which it must equal in all it is asked."""

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config
from transformers.cache_utils import DynamicCache

from hf_tasks.kv_cache import GrowingLayer, growing_cache

CONFIG = GPT2Config(n_layer=2)
SIZES = (30, 1, 1, 70, 1, 200, 1)  # of what is written: a prompt, tokens, what is more than the room there is


def written(cache: DynamicCache, layer: int, tokens: int, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    states = torch.randn(2, rows, 4, tokens, 8, generator=torch.Generator().manual_seed(1000 * layer + tokens))
    return cache.update(states[0], states[1], layer)


def test_it_holds_what_a_dynamic_cache_holds() -> None:
    ours, theirs = growing_cache(CONFIG), DynamicCache(config=CONFIG)
    assert [type(layer) for layer in ours.layers] == [GrowingLayer] * 2
    for size in SIZES:
        for layer in range(2):
            for mine, other in zip(written(ours, layer, size), written(theirs, layer, size), strict=True):
                assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)


def test_tokens_are_written_where_there_is_room() -> None:
    cache = growing_cache(CONFIG)
    places = [written(cache, 0, size)[0].data_ptr() for size in (100, 1, 1, 48, 14, 1)]
    assert len({*places[:-1]}) == 1  # 100 and room for 64
    assert places[-1] != places[0]


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda cache: cache.crop(-5), 3),
        (lambda cache: cache.batch_repeat_interleave(2), 6),
        (lambda cache: cache.batch_select_indices(torch.tensor([2, 0])), 2),
        (lambda cache: cache.reorder_cache(torch.tensor([1, 1, 0])), 3),
        (lambda cache: cache.reset(), 3),
    ],
)
def test_what_generate_does_to_a_cache_leaves_both_alike(change: Callable[[DynamicCache], None], rows: int) -> None:
    ours, theirs = growing_cache(CONFIG), DynamicCache(config=CONFIG)
    for cache in (ours, theirs):
        written(cache, 0, 20)
        written(cache, 1, 20)
        change(cache)
    for size in (1, 7):
        for layer in range(2):
            for mine, other in zip(written(ours, layer, size, rows), written(theirs, layer, size, rows), strict=True):
                assert torch.equal(mine, other)
