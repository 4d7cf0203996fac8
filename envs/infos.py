"""Infos of many environments: columns, and the forms in which vector environments and single ones give them."""

from __future__ import annotations

from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]  # info key -> its value in every row, (N, ...)


def batched(columns: Columns, rows: np.ndarray) -> dict[str, Any]:
    """The infos of `rows` (N,) bool in gymnasium's vector form: where `_key` is False, `key` is zero."""
    infos: dict[str, Any] = {}
    if not rows.any():
        return infos
    for key, values in columns.items():
        values = values.astype(_plain(values.dtype), copy=False) if values.ndim == 1 else values
        if not rows.all():
            mask = rows.reshape(-1, *(1,) * (values.ndim - 1))
            values = np.where(mask, values, np.zeros((), values.dtype))
        infos[key], infos[f"_{key}"] = values, rows.copy()
    return infos


def single(columns: Columns) -> dict[str, Any]:
    """The info of the only row: python scalars, and arrays of its own."""
    return {key: values[0].item() if values.ndim == 1 else values[0].copy() for key, values in columns.items()}


def by_row(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """One dict a row out of gymnasium's vector form."""
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        has = infos.get(f"_{key}")
        if has is None:
            continue
        if isinstance(values, dict):
            values = by_row(values, num_envs)
        elif values.ndim == 1 and values.dtype != object:
            values = values.tolist()
        for row in np.flatnonzero(has).tolist():
            rows[row][key] = values[row]
    return rows


def _plain(dtype: np.dtype[Any]) -> Any:
    """What gymnasium makes of the python scalars in the infos of single environments."""
    return {"f": np.float64, "i": np.int64, "u": np.int64}.get(dtype.kind, dtype)
