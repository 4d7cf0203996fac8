"""The 3D map: what it draws, how much it holds, and what is said where Open3D is missing."""

import builtins
import sys

import pytest
import torch
from posed_room import FOCAL, posed_streams, poses, room

from worldsim.errors import InvalidInput, MissingDependency
from worldsim.memory.base import Codec, Observed, Query
from worldsim.memory.geometry import Camera
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.memories import Memories

CAMERA = Camera(48, 64, FOCAL)
PIXELS = Codec(
    lambda images: torch.nn.functional.pixel_unshuffle(images, 8),
    lambda latents: torch.nn.functional.pixel_shuffle(latents, 8),
)


def config(**options):
    return DynamicsConfig(
        channels=192, height=6, width=8, patch=(2, 2), dim=16, heads=2, local=8, cond_dim=8,
        output_heads=("reward", "pose", "depth"), memories=("map3d",), streams=posed_streams(48, 64),
        options={"map3d": {"focal": list(FOCAL), "voxel": 5.0, **options}},
    )  # fmt: skip


def mapped(where, **options):
    """The memory, and its tree after frames at these poses."""
    made = Memories(config(**options))
    made.bind(PIXELS)
    kept = made.each["map3d"]
    tree = kept.empty(1)
    for t, pose in enumerate(where):
        frames, depth = room(pose[None], CAMERA)
        streams = {"pose": pose[None], "depth": depth}
        tree = kept.write(tree, Observed(PIXELS.encode(frames * 2 - 1), streams, None, torch.tensor([t])))
    return kept, tree


def read(kept, tree, where):
    nothing = torch.zeros(1, 192, 6, 8)
    return kept.read(tree, Query(nothing, torch.zeros(1), torch.zeros(1), {}, {"pose": where}, nothing))


@pytest.fixture
def open3d():
    return pytest.importorskip("open3d", reason='needs pip install "worldsim[spatial]"')


def test_a_map_shows_the_room_from_elsewhere_and_nothing_before_it_saw_it(open3d):
    kept, tree = mapped(poses((0, 0, 0), (-20, 0, 0.3), (-20, 0, -0.3)))
    context, real = read(kept, tree, poses((10, 3, 0.1))), room(poses((10, 3, 0.1)), CAMERA)[0]
    known = context.mask >= 1
    error = (PIXELS.decode(context.guide) - (real * 2 - 1)).square().unflatten(2, (6, 8)).unflatten(4, (8, 8))
    error = error.mean((1, 3, 5))  # of latents' places
    assert known.float().mean() > 0.7 and -10 * torch.log10(error[known[:, 0]].mean() / 4) > 18
    assert not read(kept, kept.empty(1), poses((0, 0, 0))).mask.any()
    assert read(kept, tree, poses((0, 0, 3.1))).mask.mean() < 0.2


def test_a_map_keeps_its_capacity_and_the_tree_before_as_it_was(open3d):
    kept, tree = mapped(poses((0, 0, 0)), capacity=20)
    before = {name: leaf.clone() for name, leaf in tree.items()}
    frames, depth = room(poses((0, 0, 2.0)), CAMERA)
    streams = {"pose": poses((0, 0, 2.0)), "depth": depth}
    after = kept.write(tree, Observed(PIXELS.encode(frames * 2 - 1), streams, None, torch.tensor([1])))
    again = kept.write(tree, Observed(PIXELS.encode(frames * 2 - 1), streams, None, torch.tensor([1])))
    assert all(torch.equal(tree[name], before[name]) for name in tree) and not torch.equal(
        after["values"], tree["values"]
    )
    assert all(torch.equal(after[name], again[name]) for name in tree)  # to the bit
    assert after["count"].item() == 20 and {n: t.shape for n, t in after.items()} == {
        n: t.shape for n, t in tree.items()
    }


def test_a_map_is_exported_as_mesh_and_points(open3d, tmp_path):
    kept, tree = mapped(poses((0, 0, 0), (0, 0, 0.5)))
    kept.export_ply(tree, tmp_path / "map.ply")
    assert len(open3d.io.read_triangle_mesh(str(tmp_path / "map.ply")).triangles) > 100
    kept.export_ply(tree, tmp_path / "points.ply", mesh=False)
    assert len(open3d.io.read_point_cloud(str(tmp_path / "points.ply")).points) > 100
    with pytest.raises(InvalidInput, match="ply"):
        kept.export_ply(tree, tmp_path / "map.obj")


def test_without_open3d_one_sentence_names_the_install_line(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "open3d":
            raise ImportError("No module named 'open3d'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    with pytest.raises(MissingDependency, match=r"worldsim\[spatial\]"):
        Memories(config())
