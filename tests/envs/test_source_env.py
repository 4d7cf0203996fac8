import counter_env
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim.envs.source_env import SourceEnv
from worldsim.envs.sources.matching import matching_source
from worldsim.errors import InvalidInput, InvalidState
from worldsim.spec import ActionSpec, WorldSpec

COUNTER = f"gym:{counter_env.DISCRETE}"
SPEC = WorldSpec("counter", height=16, width=32, actions=ActionSpec(n=3, start=1), steps_per_second=12.0)


def make(**options):
    return SourceEnv(matching_source(COUNTER, 1, SPEC), **options)


@pytest.mark.filterwarnings("error")
def test_the_checker_finds_nothing():
    check_env(make(hold=2), skip_render_check=True)


def test_a_held_action_is_several_steps_of_the_game():
    env, plain = make(hold=2, between=True), make()
    env.reset(seed=4)
    plain.reset(seed=4)
    while True:
        observation, reward, *ended, info = env.step(1)
        parts = [plain.step(1)]
        if not any(parts[0][2:4]):
            parts.append(plain.step(1))
        assert reward == sum(part[1] for part in parts) and ended == list(parts[-1][2:4])
        assert np.array_equal(observation, parts[-1][0])
        assert np.array_equal(info["between"], [part[0] for part in parts[:-1]] or observation[None][:0])
        if any(ended):
            break
    with pytest.raises(InvalidState, match="ended"):
        env.step(1)


def test_a_seed_names_the_episodes_that_follow():
    def lengths(seed):
        env, found = make(), []
        for episode in range(6):
            info = env.reset(seed=seed if episode == 0 else None)[1]
            assert info == {"step": 0, "episode_index": episode, "seed": seed}
            while not any(env.step(1)[2:4]):
                pass
            found.append(env._progress.counters(0).step)
        return found

    assert lengths(1) == lengths(1) != lengths(2)


def test_a_seed_of_any_size_and_options_of_others_are_taken():
    env = make()
    info = env.reset(seed=2**64 - 1)[1]
    assert env.reset(seed=info["seed"])[1] == info
    with pytest.warns(UserWarning, match="'of_a_framework' is ignored"):
        env.reset(options={"of_a_framework": True})


def test_a_game_that_is_not_the_worlds_is_refused():
    from dataclasses import replace

    for change, what in (({"steps_per_second": 20.0}, "steps a second"), ({"actions": ActionSpec(n=4)}, "actions")):
        with pytest.raises(InvalidInput, match=f"does not fit world 'counter': {what}"):
            matching_source(COUNTER, 1, replace(SPEC, **change))
    with pytest.raises(InvalidInput, match="hold is 0"):
        make(hold=0)


def test_the_frame_is_shown_once_there_is_one():
    env = make()
    with pytest.raises(InvalidState, match="reset"):
        env.render()
    observation, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), observation)
    env.close()


@pytest.mark.simulator
def test_take_cover_has_the_actions_and_the_time_limit_of_its_worlds():
    pytest.importorskip("vizdoom")
    spec = WorldSpec("doom", height=64, width=128, actions=ActionSpec(n=3), steps_per_second=17.5)
    env = SourceEnv(matching_source("doom-take-cover", 2, spec), hold=2)
    env.reset(seed=0)
    total, steps, ended = 0.0, 0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(1 + steps // 20 % 2)
        total, steps, ended = total + reward, steps + 1, terminated or truncated
    assert 4 * steps - 4 <= total <= 4 * steps <= 2100
    env.close()
