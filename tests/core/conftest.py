import contextlib
import resource
import shutil

import pytest
import torch
from recordings import LENGTHS, META, write
from tiny import tiny_files

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.io.weights import write_world


@pytest.fixture
def float32(monkeypatch):
    """Compute in float32, also where the processor has bf16."""
    for module in ("world", "train.loop", "data.latents"):
        monkeypatch.setattr(f"worldsim.{module}.autocast_dtype", lambda device: torch.float32)


@pytest.fixture(params=["float32", "bfloat16"])
def either_format(request, monkeypatch):
    """Serve in float32 and in bf16, whatever the processor has."""
    monkeypatch.setattr("worldsim.world.autocast_dtype", lambda device: getattr(torch, request.param))


@contextlib.contextmanager
def _limited(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def full_disk():
    """`with full_disk(size)`: writing fails in every file that has so many bytes, as it does on a full disk."""
    return _limited


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A tiny world's folder, which nobody is to change."""
    folder = tmp_path_factory.mktemp("written") / "tiny"
    write_world(folder, tiny_files())
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it."""
    return shutil.copytree(written, tmp_path / "tiny")


@pytest.fixture
def store(tmp_path):
    with EpisodeWriter(tmp_path / "store", META) as writer:
        write(writer, LENGTHS)
    return tmp_path / "store"


@pytest.fixture
def small_store(tmp_path):
    """Two chunks of frames, one of every other stream."""
    with EpisodeWriter(tmp_path / "small", META) as writer:
        write(writer, [5, 14])
    return tmp_path / "small"
