"""The files of a bundle: safetensors weights and JSON, each under its SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from data.calendar import Frequency
from data.errors import NightcastError
from data.files import write_atomically
from data.layout import Layout
from lstm.evaluation.conformal import Calibration
from lstm.promotion.gate import Weights
from lstm.scaling import Scaler
from lstm.tracking.bundle import TWINS, Bundle, Member, Twin
from lstm.training.recipe import Recipe

FORMAT = 4
MANIFEST = "bundle.json"
_ROLES = ("covariates", "future", "static")


class BundleError(NightcastError):
    """A bundle that is missing, damaged, changed, or of another format."""


def save(bundle: Bundle, folder: Path) -> str:
    """Write the bundle's files and return its digest, the SHA-256 of its manifest.

    The manifest is written last and holds the SHA-256 of every other file.
    """
    files = {}
    for which in TWINS:
        data = save_tensors(_joined(bundle.twin(which).weights))
        write_atomically(folder / _weights_file(which), data)
        files[_weights_file(which)] = _sha256(data)
    manifest = json.dumps({**_to_dict(bundle), "files": files}, indent=1, allow_nan=False).encode()
    write_atomically(folder / MANIFEST, manifest)
    return _sha256(manifest)


def load(folder: Path, digest: str | None = None) -> Bundle:
    """Read a bundle and check every file against its SHA-256.

    Args:
        digest: what `save` returned, kept elsewhere (the registry): also the manifest is checked.

    Raises:
        BundleError: a file is missing or is not what it should be; names the file.
    """
    manifest = _read(folder / MANIFEST, digest)
    try:
        raw = json.loads(manifest)
        if raw["format"] != FORMAT:
            raise BundleError(
                f"{folder}: bundle format {raw['format']}, this version reads {FORMAT}. Remedy: nightcast "
                f"retire {raw['layout']['data_set']}; the next night makes a new champion."
            )
        weights = {
            which: _read(folder / _weights_file(which), raw["files"][_weights_file(which)]) for which in TWINS
        }
        return _from_dict(raw, {which: load_tensors(data) for which, data in weights.items()})
    except (KeyError, IndexError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise BundleError(
            f"{folder}: not a readable bundle ({error!r}). Remedy: register the version again."
        ) from error


def _read(path: Path, digest: str | None) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read: {error}. Remedy: roll back to another version."
        ) from error
    if digest is not None and _sha256(data) != digest:
        raise BundleError(
            f"{path}: its SHA-256 is {_sha256(data)}, not {digest}: it was damaged or changed. "
            "Remedy: roll back to another version."
        )
    return data


def _to_dict(bundle: Bundle) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "code_version": bundle.code_version,
        "layout": asdict(bundle.layout),
        "frequency": asdict(bundle.frequency),
        "seasons": bundle.seasons,
        "non_negative": bundle.non_negative,
        "members": [
            {"recipe": member.recipe.to_dict(), "calibration": member.calibration.to_dict()}
            for member in bundle.members
        ],
        "serves": bundle.serves,
        "twins": {
            which: {"until": bundle.twin(which).until, "scaler": bundle.twin(which).scaler.to_dict()}
            for which in TWINS
        },
    }


def _from_dict(raw: Mapping[str, Any], weights: Mapping[Weights, dict[str, Tensor]]) -> Bundle:
    members = tuple(_member(one) for one in raw["members"])
    shapes = {(one.recipe.model.horizon, one.recipe.model.quantiles) for one in members}
    if len(shapes) != 1:
        raise ValueError(f"members of {len(shapes)} horizons or quantiles")
    twins = {
        which: Twin(
            _parted(weights[which], len(members)),
            Scaler.from_dict(raw["twins"][which]["scaler"]),
            raw["twins"][which]["until"],
        )
        for which in TWINS
    }
    if raw["serves"] not in TWINS:
        raise ValueError(f"serves {raw['serves']!r}")
    layout = raw["layout"]
    return Bundle(
        layout=Layout(**{**layout, **{role: tuple(layout[role]) for role in _ROLES}}),
        frequency=Frequency(**raw["frequency"]),
        seasons=tuple(raw["seasons"]),
        non_negative=raw["non_negative"],
        members=members,
        judged=twins["judged"],
        served=twins["served"],
        serves=raw["serves"],
        code_version=raw["code_version"],
    )


def _member(raw: Mapping[str, Any]) -> Member:
    recipe, calibration = Recipe.from_dict(raw["recipe"]), Calibration.from_dict(raw["calibration"])
    if calibration.factor_HQ.shape != (recipe.model.horizon, len(recipe.model.quantiles)):
        raise ValueError(f"calibration of {calibration.factor_HQ.shape} steps and levels")
    return Member(recipe, calibration)


def _joined(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The members' tensors under one roof: each name with the member's number before it."""
    return {
        f"{number}.{name}": tensor.contiguous()
        for number, state in enumerate(weights)
        for name, tensor in state.items()
    }


def _parted(tensors: Mapping[str, Tensor], count: int) -> tuple[dict[str, Tensor], ...]:
    """The inverse of `_joined`, for so many members."""
    states: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(count))
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        states[int(number)][name] = tensor
    if (missing := next((number for number, state in enumerate(states) if not state), None)) is not None:
        raise ValueError(f"no weights of member {missing}")
    return states


def _weights_file(which: Weights) -> str:
    return f"{which}.safetensors"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
