"""The ring of keys and values: which slot a step takes, how far away slots are; nothing is reallocated."""

import torch

from worldsim.models.layers import KVCache

CONTEXT_LENGTH = 3


def new_cache(batch: int = 1, blocks: int = 2) -> KVCache:
    return KVCache.empty(
        torch.arange(batch),
        blocks,
        tokens=2,
        heads=2,
        context_length=CONTEXT_LENGTH,
        head_dim=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def advance(cache: KVCache, steps: int) -> list[int]:
    """Claim and write `steps` steps; the slots they took in the first row."""
    slots = []
    for _ in range(steps):
        value = cache.time.float()[:, None, None, None, None].expand(-1, 1, 2, 2, 4)  # a step's entries hold its number
        place = cache.claim()
        for block in range(len(cache.keys)):
            cache.write(block, place, value, -value)
        slots.append(int(place.slot[0, 0]))
    return slots


def test_the_first_step_takes_the_sink_and_the_others_go_round():
    assert advance(new_cache(), 8) == [0, 1, 2, 3, 1, 2, 3, 1]


def test_a_slot_holds_the_step_that_was_written_to_it_last():
    cache = new_cache()
    advance(cache, 6)  # steps 0 to 5
    assert cache.written.tolist() == [[0, 4, 5, 3]]
    for keys, values in zip(cache.keys, cache.values, strict=True):
        assert keys[0, 0, 0, :, 0].tolist() == [0, 4, 5, 3]
        assert values[0, 1, 1, :, 3].tolist() == [0, -4, -5, -3]


def test_distances_count_steps_and_end_at_the_window():
    cache = new_cache()
    advance(cache, 1)
    place = cache.claim()
    assert place.distance[0, 0, :2].tolist() == [1, 0]
    assert place.hidden.tolist() == [[[False, False, True, True]]]
    advance(cache, 5)
    place = cache.claim()  # step 7
    assert place.slot.tolist() == [[1]] and place.distance.tolist() == [[[3, 0, 2, 1]]]
    assert not place.hidden.any()


def test_nothing_attends_to_an_empty_slot():
    table = torch.arange(2 * (CONTEXT_LENGTH + 1)).float().view(2, CONTEXT_LENGTH + 1)
    cache = new_cache()
    advance(cache, 1)
    bias = cache.claim().bias(table)
    assert bias.shape == (1, 2, 1, CONTEXT_LENGTH + 1)
    assert bias[0, :, 0].tolist() == [[1, 0, -torch.inf, -torch.inf], [5, 4, -torch.inf, -torch.inf]]


def test_every_world_has_its_own_clock():
    cache = new_cache(batch=2)
    cache.time = torch.tensor([0, 5])
    cache.written[1] = torch.tensor([0, 4, 2, 3])
    place = cache.claim()
    assert place.slot.tolist() == [[0], [2]]
    assert place.distance[1, 0].tolist() == [3, 1, 0, 2]
    assert cache.written.tolist() == [[0, -1, -1, -1], [0, 4, 5, 3]] and cache.time.tolist() == [1, 6]


def test_ages_go_on_from_the_first_step_of_each_world():
    cache = new_cache(batch=2)
    assert cache.ages.tolist() == [0, 1]
    advance(cache, 2 * CONTEXT_LENGTH)
    assert cache.ages.tolist() == [2 * CONTEXT_LENGTH, 2 * CONTEXT_LENGTH + 1]


def test_a_long_run_allocates_nothing_new():
    cache = new_cache(batch=2)

    def tensors() -> list[torch.Tensor]:
        return [*cache.keys, *cache.values, cache.written]

    before = [(t.data_ptr(), t.shape) for t in tensors()]
    advance(cache, 5 * CONTEXT_LENGTH)
    assert [(t.data_ptr(), t.shape) for t in tensors()] == before


def test_what_a_block_reads_is_the_cache_itself():
    cache = new_cache()
    place = cache.claim()
    keys, values = cache.write(1, place, torch.ones(1, 1, 2, 2, 4), torch.ones(1, 1, 2, 2, 4))
    assert keys.data_ptr() == cache.keys[1].data_ptr() and values.data_ptr() == cache.values[1].data_ptr()
    assert (cache.keys[0] == 0).all()  # the other block's is untouched
