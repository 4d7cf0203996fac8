"""Folders of worlds: config.json, model.safetensors, starts.safetensors, README.md (the card). Needs no PyTorch.

A world with sound also has audio.safetensors. What draws its frames is the same file as without.
"""

from __future__ import annotations

from pathlib import Path

from worldsim.errors import UnknownWorld

MODEL, STARTS, CONFIG, CARD = "model.safetensors", "starts.safetensors", "config.json", "README.md"
AUDIO = "audio.safetensors"  # of the head that makes the sound, in worlds that have one
AGENT = "agent.safetensors"  # a trained agent that a world may come with
PROBES = ("probes.py", "probes/*.py")  # code, which `worldsim.evaluate.probes` runs only for those who trust it
SHIPPED = Path(__file__).parents[1] / "worlds"


def shipped_worlds() -> list[str]:
    """Names of the worlds that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def find_world(name: str | Path) -> Path:
    """The folder of a shipped world, a local folder, or a hub id (`owner/name`, downloaded once)."""
    text = str(name)
    if text in shipped_worlds():
        return SHIPPED / text
    if text and Path(name).is_dir():
        return Path(name)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return _download(text)
    raise UnknownWorld(
        f"no world {text!r}: it is neither a shipped one ({', '.join(shipped_worlds()) or 'none ship'}), "
        "nor a local folder, nor a hub id like 'owner/name'"
    )


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UnknownWorld(
            f'no folder {hub_id!r}; to load it from the hub instead, pip install "worldsim[hub]"'
        ) from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[MODEL, STARTS, AUDIO, CONFIG, CARD, AGENT, *PROBES]))
    except Exception as error:  # the hub client raises many types: offline, not found, not allowed
        raise UnknownWorld(
            f"no folder {hub_id!r}, and the hub gave no world of that id ({error}); check the name and the network"
        ) from error
