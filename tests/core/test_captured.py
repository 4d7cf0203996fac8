"""A recorded function reads and writes memory of its own, and nobody outside notices."""

import torch

from worldsim.captured import Captured


def as_on_a_gpu(run):
    """Replaying computes into the memory of the first output, as a CUDA graph does."""
    output = run()

    def replay():
        for kept, new in zip(output, run(), strict=True):
            kept.copy_(new)

    return replay, output


def step(x, memory, clock):
    memory[0][clock] = x
    clock += 1
    return x + memory[0].sum(), clock.float()


def inputs(value):
    return torch.tensor(float(value)), [torch.zeros(4)], torch.tensor([1])


def test_it_gives_what_the_function_gives_and_changes_what_it_changes():
    recorded = Captured(step, inputs(5), changed=(1, 2), capture=as_on_a_gpu)
    mine, theirs = inputs(3), inputs(3)
    for _ in range(2):
        for found, wanted in zip(recorded(*mine), step(*theirs), strict=True):
            assert torch.equal(found, wanted)
    assert torch.equal(mine[1][0], theirs[1][0]) and torch.equal(mine[2], theirs[2])


def test_what_it_gave_stays_as_it_was():
    recorded = Captured(step, inputs(5), changed=(1, 2), capture=as_on_a_gpu)
    first = recorded(*inputs(3))
    kept = [one.clone() for one in first]
    recorded(*inputs(8))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_what_it_does_not_change_is_left_alone():
    recorded = Captured(lambda x, memory, clock: (x * clock,), inputs(5), capture=as_on_a_gpu)
    given = inputs(3)
    assert recorded(*given)[0] == 3 and given[1][0].sum() == 0 and given[2] == 1
