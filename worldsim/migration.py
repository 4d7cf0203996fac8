"""Worlds, checkpoints, states and episode stores of earlier versions as those of today.

Format 7 of worlds had other names for some sizes and modules of the dynamics. Format 6 had conditions and heads as
fixed parts of the dynamics, which are now modules named in the config; the phase of an episode's clock was `cycle`. The
numbers of noise shaping were among those of sampling, 0 where there was none. A head `burst`, which drew several steps
at once, is gone. States had seed, episode and time beside the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # episode stores, which have no tensors, are migrated without PyTorch
    from torch import Tensor

WORLD_FORMAT = 8
MOVED = {  # modules of the dynamics: where they were, where they are
    "action.": "conditions.action.embed.",
    "level.": "conditions.noise_level.embed.",
    "age.": "conditions.episode_time.embed.",
    "phase.": "conditions.episode_phase.embed.",
    "squeeze.": "heads.squeeze.",
    "outcome.0.": "heads.trunk.",
    "outcome.2.": "heads.last.",
    "painter.tell.": "latent_decoder.film_input.",
    "painter.": "latent_decoder.",
    "place": "position",
    "tau.": "level_embed.",
}
OLD_CHANGE_SCALE = 6.25  # of the world that the absolute thresholds of the loss were made for

SIZES = {"window": "context_length", "oldest": "max_time", "painter_blocks": "latent_decoder_blocks"}  # of format 7

# What the code of earlier versions trained with.
CONSTANTS: dict[str, dict[str, Any]] = {
    "tokenizer": {
        "loss": {"absolute": 0.3, "squared": 5.0, "gradient": 0.3, "rate": 0.006, "moving": 5.0},
    },
    "dynamics": {
        "loss": {
            "context_noise": 0.3, "pure_noise": 0.15, "noise_level": -0.7, "change": 12.0, "own_frames_after": 1500,
            "own_frames": 0.7, "own_frames_from": 0.5, "own_frames_depth": 3, "own_frames_error": 3.0,
            "shortcuts": 0.5, "shortcut_weight": 0.5, "ending_weight": 2.0, "event_weight": 2.0, "reward_weight": 0.1,
            "stream_noise": 0.05, "outcome_dropout": 0.3,
        },
        "clips": {"changing": 0.25, "emphasis": 4.0, "event": 0.25},
    },
}  # fmt: skip


def migrate_config(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a `config.json`; one of a format that is not known is given back as it is."""
    if values.get("format_version") in (6, 7, WORLD_FORMAT) and isinstance(values.get("tokenizer"), dict):
        values = values | {"tokenizer": migrate_tokenizer(values["tokenizer"])}
    if values.get("format_version") not in (6, 7):
        return values
    values = {name: value for name, value in values.items() if name != "burst"}
    if isinstance(values.get("dynamics"), dict):
        values["dynamics"] = migrate_sizes(values["dynamics"])
    if isinstance(values.get("sampling"), dict) and "surprise" in values["sampling"]:
        values["sampling"] = migrate_sampling(values["sampling"])
    return values | {"format_version": WORLD_FORMAT}


def migrate_tokenizer(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `TokenizerConfig`; ranks were those of a kind of decoder that is gone."""
    return {name: value for name, value in values.items() if name != "decoder_ranks"}


def migrate_sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `SamplingConfig`, of which those of noise shaping became a `NoiseShaping`."""
    names = {
        "surprise": "rate", "surprise_growth": "rate_growth", "surprise_rows": "rows", "spared": "protection_threshold",
    }  # fmt: skip
    kept = {name: value for name, value in values.items() if name not in names}
    shaping = {new: values[old] for old, new in names.items() if old in values} | {"noise_scale": 2.0}
    return kept | {"noise_shaping": shaping if values.get("surprise") else None}


def migrate_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `DynamicsConfig`, in a world's config or in a checkpoint's."""
    values = {SIZES.get(name, name): value for name, value in values.items()}
    if "cycle" not in values:
        return values
    kept = {name: value for name, value in values.items() if name != "cycle"}
    named = ["action", "noise_level", "episode_time", "episode_phase"]
    return kept | {"period": values["cycle"], "conditions": named}


def migrate_settings(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a checkpoint of some kind; those that were constants of the code are named."""
    values = dict(values)
    if isinstance(values.get("model"), dict):
        migrate = migrate_tokenizer if kind == "tokenizer" else migrate_sizes
        values["model"] = migrate(values["model"])
    trained_here = "batch" in values  # what was unpacked from a world says nothing of how it was trained
    values = (CONSTANTS.get(kind, {}) if trained_here else {}) | values
    return _relative(values) if kind == "dynamics" and "loss" in values and "change_scale" not in values else values


def _relative(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of dynamics whose loss had absolute thresholds, in latents' units and in steps, as they are today.

    With this `change_scale` the defaults of then are those of now, and places count and errors are cut as they were;
    the steps before own predictions become a share of the training.
    """
    loss, model = dict(values["loss"]), values.get("model")
    if not {"change", "own_frames_error"} <= loss.keys() or not isinstance(model, Mapping):
        return dict(values)
    length = (OLD_CHANGE_SCALE * model.get("channels", 16)) ** 0.5  # of a usual change
    loss |= {"change": OLD_CHANGE_SCALE, "change_most": loss["change"], "own_frames_after": 0.05}
    loss["own_frames_error"] = round(loss["own_frames_error"] / length, 6)
    return dict(values) | {"change_scale": OLD_CHANGE_SCALE, "loss": loss}


def migrate_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named weights of a world or a checkpoint; those of today stay as they are."""
    return _optimizer({_moved(name): tensor for name, tensor in tensors.items() if not name.startswith("burst.")})


def _optimizer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors; of old tokenizers the first weight was `log_rms`, a scalar that is measured now."""
    first = tensors.get("optimizer.0.exp_avg")
    if "model.tokenizer.log_rms" not in tensors or first is None or first.ndim:
        return tensors
    kept = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            if index == "0":
                continue
            name = f"optimizer.{int(index) - 1}.{key}"
        kept[name] = tensor
    return kept


def _moved(name: str) -> str:
    """The name of today of a weight of a world, or of a checkpoint's model and average."""
    head, dynamics, rest = name.partition("dynamics.")
    if dynamics and head in ("", "model.", "average."):
        for old, new in MOVED.items():
            if rest.startswith(old):
                return head + dynamics + new + rest.removeprefix(old)
    return name


def migrate_stream(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stream's `StreamSpec` in an episode store; older stores say nothing but shape and dtype."""
    if "kind" in values:
        return dict(values)
    shape, dtype = tuple(values["shape"]), values["dtype"]
    names = {"audio": "audio", "depth": "depth"}
    kind = names.get(name) or ("image" if dtype == "uint8" and shape[-1:] == (3,) else None)
    kind = kind or ("vector" if str(dtype).startswith("float") else "token")
    several = name in ("between", "audio") and len(shape) > 0
    return {"kind": kind, "shape": shape, "dtype": dtype, "per_step": shape[0] if several else 1}


def migrate_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named leaves of a saved state; those of today, and those of other worlds than ours, stay as they are."""
    if not {"/past", "/cache/written", "/seed", "/episode", "/time"} <= tensors.keys():
        return dict(tensors)
    keys = ("/seed", "/episode", "/time")
    return {f"/keys{name}" if name in keys else name: tensor for name, tensor in tensors.items()}
