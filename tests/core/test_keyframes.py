"""Keyframes with geometry: what they draw from elsewhere, what they keep, and that a world with them keeps its word."""

import dataclasses

import numpy as np
import posed_room as rooms
import pytest
import torch
from posed_room import FOCAL, posed_streams, poses

from worldsim.errors import InvalidInput
from worldsim.memory import posed
from worldsim.memory.base import Codec, Observed, Query
from worldsim.memory.geometry import FAR, Camera, Views, choose, coverage, project, render, splat_depth
from worldsim.memory.keyframes import fill
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.memories import Memories

CAMERA = Camera(48, 64, FOCAL)
STREAMS = posed_streams(48, 64)


def room(pose):
    return rooms.room(pose, CAMERA)


def views(where: torch.Tensor) -> Views:
    frames, depth = room(where)
    return Views(frames[None], depth[None], where[None], torch.ones(1, len(where)))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def test_a_point_is_where_the_other_camera_sees_it():
    ahead = torch.full((1, 48, 64), 50.0)
    u, v, z = project(CAMERA, ahead, poses((0, 0, 0)), poses((10, 0, 0)))
    assert torch.allclose(z, torch.tensor(40.0)) and torch.allclose(u[0, 0, 32], torch.tensor(32 + 0.5 * 50 / 40))
    assert torch.allclose(v[0, 24, 0], torch.tensor(24 + 0.5 * 50 / 40))
    u, _, _ = project(CAMERA, ahead, poses((0, 0, 0)), poses((0, 0, 0.1)))  # turned left: things move to the right
    assert (u[0, 24] > torch.arange(64) + 0.5).all()
    u, _, _ = project(CAMERA, ahead, poses((0, 0, 0)), poses((0, 5, 0)))  # gone left, likewise
    assert (u[0, 24] > torch.arange(64) + 0.5).all()


@pytest.mark.parametrize("there", [(12, 5, 0.1), (-20, 0, -0.3), (0, 20, 0.0)], ids=str)
def test_geometry_redraws_a_room_from_elsewhere(there):
    target = poses(there)
    real, depth = room(target)
    frames, mask, _, found = render(CAMERA, views(poses((0, 0, 0), (-30, 0, 0.4), (-30, 0, -0.4))), target)
    on = mask[0] > 0
    assert on.float().mean() > 0.9 and psnr(frames[0][:, on], real[0][:, on]) > 32
    assert (found[0][on] / depth[0][on] - 1).abs().median() < 0.01


def test_the_nearest_point_is_seen_and_nothing_is_where_no_view_looked():
    near, far = torch.full((1, 1, 48, 64), 20.0), torch.full((1, 1, 48, 64), 80.0)
    where = poses((0, 0, 0))[None].expand(1, 2, 4)
    both = Views(torch.zeros(1, 2, 3, 48, 64), torch.cat([far, near], 1), where, torch.ones(1, 2))
    assert torch.allclose(splat_depth(CAMERA, both, poses((0, 0, 0))), torch.tensor(20.0))
    assert (splat_depth(CAMERA, both, poses((0, 0, 3.1))) == FAR).all()
    gone = dataclasses.replace(both, worth=torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(splat_depth(CAMERA, gone, poses((0, 0, 0))), torch.tensor(80.0))


def test_the_views_that_show_most_are_chosen_and_none_twice():
    where = poses((0, 0, 3.0), (0, 0, 0.4), (0, 0, -0.4), (0, 0, 0.41))
    _, depth = room(where)
    coarse = CAMERA.coarse(8)
    cover = coverage(
        coarse, depth[None, :, 4::8, 4::8], where[None], torch.ones(1, 4, dtype=torch.bool), poses((0, 0, 0))
    )
    index, enough = choose(cover, 3)
    assert set(index[0, :2].tolist()) in ({1, 2}, {2, 3}) and enough[0, :2].all()
    assert cover[0, 0].sum() == 0


def test_holes_are_filled_with_what_is_near():
    frames, mask = torch.ones(1, 3, 16, 32), torch.zeros(1, 16, 32)
    mask[:, :, :12] = 1
    frames[:, :, :, :12] = 0.25
    assert torch.allclose(fill(frames, mask), torch.tensor(0.25))
    assert torch.allclose(fill(frames, torch.zeros(1, 16, 32)), torch.tensor(0.5))


# -- the store


def steps_of(gate, where, tree=None, first=0):
    tree = posed.empty(gate, CAMERA, 1) if tree is None else tree
    for t, pose in enumerate(where, first):
        frames, depth = room(pose[None])
        tree = posed.write(gate, tree, (frames * 255).to(torch.uint8), depth, pose[None], torch.tensor([t]))
    return tree


def test_only_new_views_are_kept_and_the_last_one_always_is():
    tree = steps_of(posed.Gate(8, near=10, turn=0.3), poses((0, 0, 0), (5, 0, 0), (5, 0, 0.2), (20, 0, 0), (20, 0, 1)))
    assert tree["count"].item() == 3
    assert tree["step"].gather(1, tree["keys"])[0, :3].tolist() == [0, 3, 4]
    again = steps_of(posed.Gate(8, near=10, turn=0.3), poses((1, 0, 0)), tree, 5)
    assert again["count"].item() == 3 and again["step"][0, again["last"][0]].item() == 5


def test_capacity_is_kept_and_of_two_alike_the_later_one_goes():
    gate = posed.Gate(3, near=10, turn=0.3)
    tree = steps_of(gate, poses((0, 0, 0), (100, 0, 0), (112, 0, 0), (190, 0, 0), (300, 0, 0)))
    shapes = {name: leaf.shape for name, leaf in tree.items()}
    assert shapes == {name: leaf.shape for name, leaf in posed.empty(gate, CAMERA, 1).items()}
    assert sorted(tree["step"].gather(1, tree["keys"])[0].tolist()) == [0, 1, 4]  # 2 went, then 3


def test_a_tree_reads_as_before_after_a_write_that_is_not_wanted():
    gate = posed.Gate(3, near=10, turn=0.3)
    tree = steps_of(gate, poses((0, 0, 0), (100, 0, 0), (200, 0, 0), (300, 0, 0)))

    def read(tree):
        slots = torch.cat([tree["keys"], tree["last"][:, None]], 1)
        seen = posed.views(tree, slots, torch.ones(slots.shape))
        return torch.cat([seen.frames.flatten(), seen.depth.flatten(), seen.pose.flatten()])

    before = read(tree)
    one, other = steps_of(gate, poses((50, 50, 0)), tree, 4), steps_of(gate, poses((-50, 50, 2)), tree, 4)
    assert torch.equal(read(tree), before)
    assert not torch.equal(read(other), before) and one["count"].item() == 3


# -- in a model


def config(**options) -> DynamicsConfig:
    return DynamicsConfig(
        channels=192, height=6, width=8, patch=(2, 2), dim=16, heads=2, local=8, cond_dim=8,
        output_heads=("reward", "pose", "depth"), memories=("keyframes",), streams=STREAMS,
        options={"keyframes": {"focal": [0.5, 0.6], "capacity": 8, **options}},
    )  # fmt: skip


PIXELS = Codec(  # latents that are the pixels themselves
    lambda images: torch.nn.functional.pixel_unshuffle(images, 8),
    lambda latents: torch.nn.functional.pixel_shuffle(latents, 8),
)


def memory(**options):
    made = Memories(config(**options))
    made.bind(PIXELS)
    return made.each["keyframes"]


def observed(where: torch.Tensor, step: int) -> Observed:
    frames, depth = room(where)
    return Observed(
        PIXELS.encode(frames * 2 - 1), {"pose": where, "depth": depth}, None, torch.full((len(where),), step)
    )


def query(where: torch.Tensor, generator=None) -> Query:
    nothing = torch.zeros(len(where), 192, 6, 8)
    return Query(nothing, torch.zeros(len(where)), torch.zeros(len(where)), {}, {"pose": where}, nothing, generator)


def test_a_guide_shows_what_was_seen_and_is_kept_where_it_is_sure():
    kept = memory()
    tree = kept.write(kept.empty(1), observed(poses((0, 0, 0)), 0))
    context = kept.read(tree, query(poses((10, 0, 0))))
    real, _ = room(poses((10, 0, 0)))
    assert context.gate.float().mean() > 0.8
    shown = (PIXELS.decode(context.guide) + 1) / 2
    assert psnr(shown, real) > 30
    away = kept.read(tree, query(poses((0, 0, 1.2))))  # half of the view is new
    assert 0.1 < away.mask.mean() < 0.6 and not away.gate.all() and away.gate.any()
    assert not memory(sure=1.5).read(tree, query(poses((10, 0, 0)))).gate.any()


def test_the_last_frame_is_drawn_from_but_keeps_nothing():
    kept = memory(near=1000, turn=10)  # so the first frame alone is kept
    tree = kept.write(kept.empty(1), observed(poses((0, 0, 0)), 0))
    tree = kept.write(tree, observed(poses((0, 0, 1.2)), 1))
    context = kept.read(tree, query(poses((0, 0, 1.2))))
    assert context.mask.mean() > 0.98 and 0.1 < context.gate.float().mean() < 0.6


def test_what_was_seen_from_afar_is_drawn_from_but_not_kept():
    tree = memory().write(memory().empty(1), observed(poses((-40, 0, 0)), 0))
    far, near = (memory(fine=fine).read(tree, query(poses((0, 0, 0)))) for fine in (0.4, 0.9))
    assert far.gate.any() and not near.gate.any() and torch.equal(far.mask, near.mask)


def test_a_room_is_remembered_after_turning_round():
    kept, turn = memory(capacity=16), [0.3 * k for k in range(21)]
    tree = kept.empty(1)
    for t, yaw in enumerate(turn):
        tree = kept.write(tree, observed(poses((0, 0, yaw)), t))
    frames, mask, *_ = kept.guide(tree, poses((5, 5, 0.15)))
    assert mask.mean() > 0.97 and psnr(frames, room(poses((5, 5, 0.15)))[0]) > 26


def test_noise_is_put_on_what_is_read_in_training_alone():
    kept = memory(pose_noise=2.0)
    tree = kept.write(kept.empty(1), observed(poses((0, 0, 0)), 0))
    exact, again = (kept.read(tree, query(poses((10, 0, 0)))).guide for _ in range(2))
    noisy = kept.read(tree, query(poses((10, 0, 0)), torch.Generator().manual_seed(0))).guide
    assert torch.equal(exact, again) and not torch.equal(exact, noisy)


def test_a_picture_is_pasted_on_the_wall_and_seen_from_elsewhere():
    kept = memory()
    tree = kept.write(kept.empty(1), observed(poses((0, 0, 0)), 0))
    tree = kept.write(tree, observed(poses((40, 10, 0.1)), 1))
    alpha = torch.zeros(48, 64)
    alpha[16:30, 24:40] = 1
    _, depth = room(poses((0, 0, 0)))
    pasted = kept.paste(
        tree, poses((0, 0, 0))[0], depth[0], torch.tensor([1.0, 0.0, 1.0])[:, None, None] * alpha, alpha
    )
    before, after = (kept.guide(one, poses((20, 5, 0.0)))[0][0] for one in (tree, pasted))
    magenta = (after[0] > 0.9) & (after[1] < 0.1) & (after[2] > 0.9)
    assert 200 < magenta.sum() < 800 and magenta[24, 32] and not magenta[:, :8].any()
    assert torch.equal(before[:, :, :8], after[:, :, :8])


def test_what_is_missing_is_named():
    with pytest.raises(InvalidInput, match="need the streams pose, depth"):
        Memories(dataclasses.replace(config(), streams={}, output_heads=("reward",)))
    with pytest.raises(InvalidInput, match="no head foresees"):
        memory().read(memory().empty(1), dataclasses.replace(query(poses((0, 0, 0))), predicted={}))
    with pytest.raises(InvalidInput, match="takes capacity"):
        memory(size=3)
    with pytest.raises(InvalidInput, match="capacity"):
        memory(capacity=0)
    assert np.isfinite(memory().guide(memory().empty(1), poses((0, 0, 0)))[0].numpy()).all()
