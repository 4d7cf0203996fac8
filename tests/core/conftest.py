import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models are so small that more threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def float32(monkeypatch):
    """Compute in float32, also where the processor has bf16."""
    for module in ("world", "train.loop", "train.latents"):
        monkeypatch.setattr(f"worldsim.{module}.autocast_dtype", lambda device: torch.float32)


@pytest.fixture(params=["float32", "bfloat16"])
def either_format(request, monkeypatch):
    """Serve in float32 and in bf16, whatever the processor has."""
    monkeypatch.setattr("worldsim.world.autocast_dtype", lambda device: getattr(torch, request.param))
