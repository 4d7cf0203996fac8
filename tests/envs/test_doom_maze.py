"""Mazes: a function of their number, exact depth, policies that come back; and the game that is played in them."""

import itertools

import numpy as np
import pytest
from sources import play, same

from worldsim.envs.sources.doom_maze import SPLITS, motion_between
from worldsim.envs.sources.mazes import BLOCK, CEILING, EYE, exact_depth, make_maze, textmap, wad
from worldsim.errors import InvalidInput
from worldsim.models.places import moved
from worldsim.policies.data import make_policy

torch = pytest.importorskip("torch")
POLICIES = ("out-and-back", "loops", "look-round", "tour", "seek")


def test_a_maze_is_a_function_of_its_number_and_of_one_piece():
    for number in (0, 1, 100_000):
        maze, again = make_maze(number), make_maze(number)
        assert textmap(maze) == textmap(again) and maze.free[maze.start] and maze.free[maze.goal]
        assert not (maze.free[0].any() or maze.free[-1].any() or maze.free[:, 0].any() or maze.free[:, -1].any())
        rng = np.random.default_rng(0)
        ways = [maze.path(maze.start, (int(i), int(j)), rng) for i, j in np.argwhere(maze.free)]
        assert all(ways) and all(maze.free[cell] for way in ways for cell in way)
    assert textmap(make_maze(0)) != textmap(make_maze(1))
    assert set(range(sum(SPLITS["train"]))).isdisjoint(range(SPLITS["test"][0], sum(SPLITS["test"])))


def test_a_map_takes_the_place_of_another():
    texts = [textmap(make_maze(number)) for number in range(20)]
    assert len({len(wad(text, 1 << 17)) for text in texts}) == 1 and max(map(len, texts)) < 1 << 17
    assert b"TEXTMAP" in wad(texts[0], 1 << 17)


def test_depth_is_that_of_the_nearest_wall_and_of_flat_floors():
    maze = make_maze(3)
    cell = maze.start
    pose = np.array([*maze.center(cell), EYE, 0.0], np.float32)
    depth, ahead = exact_depth(maze, pose, 64, 96), 0
    while maze.free[cell[0] + ahead + 1, cell[1]]:
        ahead += 1
    assert depth[31, 47] == pytest.approx((ahead + 0.5) * BLOCK, rel=1e-3)
    down = (63.5 / 64 - 0.5) / 0.8
    assert depth[63].max() == pytest.approx(EYE / down, rel=1e-4)
    assert depth[0].max() == pytest.approx((CEILING - EYE) / down, rel=1e-4)
    assert np.isfinite(depth).all() and depth.min() > 0


def test_motion_is_seen_from_the_camera_and_leads_back_to_the_pose():
    before, after = np.array([10, 20, 41, 3.0], np.float32), np.array([12, 17, 41, -3.0], np.float32)
    motion = motion_between(before, after)
    assert abs(motion[2]) < 0.3
    again = moved(torch.from_numpy(before)[None], torch.from_numpy(motion)[None])[0].numpy()
    np.testing.assert_allclose(again[:3], after[:3], atol=1e-4)
    assert np.cos(again[3] - after[3]) == pytest.approx(1, abs=1e-5)


@pytest.mark.simulator
def test_the_game_shows_its_maze_and_repeats_it(made):
    source = made("doom-maze")
    actions = [1] * 10 + [3] * 20 + [1] * 15 + [0] * 3 + [2] * 5
    first = play(source, 7, actions)
    other = play(source, 8, actions)
    assert same(first, play(source, 7, actions)) and not same(first, other)
    maze = make_maze(7)
    start = first[0].extras["pose"]
    np.testing.assert_allclose(start, [*maze.center(maze.start), EYE, np.deg2rad(maze.angle)], atol=0.1)
    assert int(first[0].extras["maze"]) == 7 and first[0].rgb.shape == (64, 96, 3)
    turned = first[30].extras["pose"][3] - first[10].extras["pose"][3]
    assert 1.5 < (turned + 2 * np.pi) % (2 * np.pi) < 2.6  # to the left
    for row, after in itertools.pairwise(first):
        assert np.array_equal(after.extras["motion"], motion_between(row.extras["pose"], after.extras["pose"]))


@pytest.mark.simulator
def test_depth_agrees_with_the_frames_that_it_carries_from_view_to_view(made):
    """Pixels of one view, carried by depth and pose to the next one, are that view."""
    from worldsim.memory.geometry import Camera, Views, render

    rows = play(made("doom-maze"), 5, [1] * 12 + [3] * 6 + [1] * 4)
    seen, there = rows[-4], rows[-1]
    camera = Camera(64, 96, (0.5, 0.8))

    def tensor(row, name):
        return torch.from_numpy(np.asarray(row.extras[name], np.float32))[None]

    frames = torch.from_numpy(seen.rgb).permute(2, 0, 1)[None, None].float() / 255
    views = Views(frames, tensor(seen, "depth")[None], tensor(seen, "pose")[None], torch.ones(1, 1))
    drawn, mask, *_ = render(camera, views, tensor(there, "pose"))
    real, on = torch.from_numpy(there.rgb).permute(2, 0, 1).float() / 255, mask[0] > 0
    error = (drawn[0] - real)[:, on].square().mean()
    still = (frames[0, 0] - real)[:, on].square().mean()
    assert on.float().mean() > 0.5 and error < still / 3


@pytest.mark.simulator
@pytest.mark.parametrize("name", POLICIES)
def test_policies_walk_about_and_come_back(made, name):
    source = made("doom-maze", limit=150)
    policy, row = make_policy(name, source.spec), source.reset(11)
    policy.reset(np.random.default_rng(1))
    poses = [row.extras["pose"]]
    while not row.done:
        row = source.step(policy.act(row))
        poses.append(row.extras["pose"])
    poses = np.stack(poses)
    away = np.linalg.norm(poses[:, :2] - poses[0, :2], axis=1)
    assert away.max() > 40 and (row.terminated == (row.reward == 1.0))
    assert row.truncated or name == "seek"


@pytest.mark.simulator
def test_the_goal_ends_the_episode_with_a_reward(made):
    source = made("doom-maze", limit=1500)
    policy, row = make_policy("seek", source.spec), source.reset(2)
    policy.reset(np.random.default_rng(0))
    policy._ways = 0
    while not row.done:
        assert row.reward == 0
        row = source.step(policy.act(row))
    assert row.terminated and row.reward == 1


@pytest.mark.parametrize("options", [{"split": "both"}, {"height": 60}, {"limit": 0}])
def test_options_of_the_maze_are_checked(made, options):
    with pytest.raises(InvalidInput):
        made("doom-maze", **options)
