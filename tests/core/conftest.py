import contextlib
import resource

import pytest
import torch
from fixtures import one_thread  # noqa: F401


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
