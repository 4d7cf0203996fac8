"""All noise is a pure function of (seed, episode, step, stream)."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from worldsim.sampling import noise

STREAMS = [getattr(noise, name) for name in dir(noise) if name.startswith("STREAM_")]


def draw(seed: int = 0, episode: int = 0, step: int = 0, stream: int = 0) -> bytes:
    return noise.normal([seed], [episode], [step], stream, (3, 4)).tobytes()


def test_the_same_key_gives_the_same_noise():
    assert draw(5, 1, 7, 2) == draw(5, 1, 7, 2)


def test_every_part_of_the_key_matters():
    keys = list(itertools.product([0, 1, -1, 2**63], [0, 1], [0, 1, 2**40], STREAMS))
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(seed=1, step=0) != draw(seed=0, step=1)


def test_streams_have_numbers_of_their_own():
    assert len(set(STREAMS)) == len(STREAMS) >= 4


def test_a_row_does_not_depend_on_the_other_rows():
    together = noise.normal([1, 2, 3], [0, 5, 0], [9, 0, 4], 1, (2, 5))
    assert together.shape == (3, 2, 5) and together.dtype == np.float32
    assert together[1].tobytes() == noise.normal([2], [5], [0], 1, (2, 5)).tobytes()


def test_a_batch_draws_what_a_fresh_generator_of_each_row_would():
    keys, shape = ([1, -2, 2**63 - 1], [0, 5, 1], [9, 0, 2**40]), (3, 5)
    fresh = [noise.generator(*key, 2) for key in zip(*keys, strict=True)]
    assert noise.normal(*keys, 2, shape).tobytes() == b"".join(
        g.standard_normal(shape, np.float32).tobytes() for g in fresh
    )
    fresh = [noise.generator(*key, 4) for key in zip(*keys, strict=True)]
    assert noise.uniform(*keys, 4, ()).tolist() == [float(g.random(dtype=np.float32)) for g in fresh]


def test_drawing_does_not_touch_the_global_generators():
    np.random.seed(0)  # noqa: NPY002 - the legacy state is what must stay
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    draw()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_the_noise_has_the_distribution_it_says(kind):
    drawn = getattr(noise, kind)([3], [1], [4], 1, (50_000,))[0]
    mean, deviation = (0.0, 1.0) if kind == "normal" else (0.5, 12**-0.5)
    assert drawn.mean() == pytest.approx(mean, abs=0.02) and drawn.std() == pytest.approx(deviation, abs=0.02)
    if kind == "uniform":
        assert drawn.min() >= 0 and drawn.max() < 1


def test_successive_steps_are_independent():
    steps = np.arange(2000)
    drawn = noise.normal(np.zeros(2000), np.zeros(2000), steps, 3, (8,))
    correlation = (drawn[1:] * drawn[:-1]).mean()
    assert abs(correlation) < 0.05 and len(np.unique(drawn)) > 0.99 * drawn.size


def test_another_process_draws_the_same():
    code = (
        "from worldsim.sampling import noise\n"
        "print(noise.normal([11, -3], [2, 0], [40, 1], 3, (4,)).tobytes().hex(),"
        " noise.uniform([11], [2], [40], 4, ()).tobytes().hex())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    normal = noise.normal([11, -3], [2, 0], [40, 1], 3, (4,)).tobytes().hex()
    assert found.stdout.split() == [normal, noise.uniform([11], [2], [40], 4, ()).tobytes().hex()]
