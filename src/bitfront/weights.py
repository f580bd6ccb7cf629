"""Files of weights: which network of the catalogue they belong to, and their arrays under its keys.

``.safetensors`` files hold no code. ``.pt`` and ``.pth`` files are opened only as far as torch can do it without
running code of theirs (``weights_only``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bitfront.contracts import InputContract
from bitfront.errors import DataError, UsageError
from bitfront.factories import find_factory
from bitfront.record import digest_file, from_json
from bitfront.registry import load, names

__all__ = [
    "SUFFIXES",
    "Found",
    "Weights",
    "arrays",
    "choose",
    "find_weights",
    "recognise",
    "require_file",
    "require_torch",
]

SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint file and the network it fits."""

    path: Path
    sha256: str
    model: str
    """Catalogue name or ``package.module:factory``."""
    options: Mapping[str, Any]
    """Options that rebuild the network."""
    input: InputContract | None = None
    """How it was trained to be fed; ``None`` for files that do not say."""
    classes: tuple[str, ...] = field(default=())
    """Classes it was trained for; empty for files that do not say."""


class Found(NamedTuple):
    """Checkpoints of a family: those of a whole network, and those that have its feature extractor."""

    whole: tuple[Weights, ...] = ()
    backbones: tuple[Weights, ...] = ()
    """With the options that the feature extractor asks for, no others."""


def recognise(path: Path) -> Weights:
    """Find the network that a file fits: as its header says, else by the shapes of its tensors.

    Raises DataError when no network of the catalogue fits, or the file is damaged or holds more than tensors.
    """
    header, state = _read(path)
    if "model" in header:
        return _described(path, header)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    for name in names("model"):
        options = load("model", name).recognise(shapes, path.stem)
        if options is not None:
            return Weights(path, digest_file(path), name, options)
    raise DataError(
        f"no model of the catalogue has the weights of '{path}' ({len(shapes)} tensors)",
        hint=f"known: {', '.join(names('model'))}; for your own network give package.module:factory and --weights",
    )


def _described(path: Path, header: Mapping[str, Any]) -> Weights:
    try:
        contract = from_json(InputContract, header["input"]) if "input" in header else None
        options, classes = dict(header.get("options", {})), tuple(map(str, header.get("classes", ())))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise DataError(f"the description in '{path}' is damaged", hint="train or copy it again") from error
    return Weights(path, digest_file(path), str(header["model"]), options, contract, classes)


def find_weights(place: Path | None, family: Any, name: str) -> Found:
    """Return the checkpoints in a file or folder that fit a family. Raises DataError when there are none."""
    if place is None:
        return Found()
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [require_file(str(place))]
    found = [_fitting(path, family, name) for path in files]
    whole, backbones = (tuple(w for pair in found if (w := pair[k]) is not None) for k in (0, 1))
    if not whole + backbones:
        raise DataError(f"'{place}' holds no checkpoint of {name}", hint="give a .safetensors file or a folder of them")
    return Found(whole, backbones)


def choose(weights: Sequence[Weights], options: Mapping[str, Any], size: tuple[int, int]) -> Weights | None:
    """Return the one that fits an architecture, first one trained at ``size``; ``None`` without one."""
    fitting = [w for w in weights if all(options.get(k, v) == v for k, v in w.options.items())]
    fitting.sort(key=lambda w: (w.input is None or (w.input.height, w.input.width) != size, w.path.name))
    return fitting[0] if fitting else None


def _fitting(path: Path, family: Any, name: str) -> tuple[Weights | None, Weights | None]:
    """Return what a file is to a family: a whole network, and a feature extractor."""
    header, state = _read(path)
    if header.get("model", name) != name:
        return None, None
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    backbone = family.recognise_backbone(shapes) if hasattr(family, "recognise_backbone") else None
    part = None if backbone is None else Weights(path, digest_file(path), name, backbone)
    if "model" in header:
        return _described(path, header), part
    if not hasattr(family, "recognise"):
        return Weights(path, digest_file(path), name, {}), None
    options = family.recognise(shapes, path.stem)
    return None if options is None else Weights(path, digest_file(path), name, options), part


def arrays(path: Path, family: Any) -> dict[str, Any]:
    """Return a file's arrays under the family's own keys, their axes in its order. Raises DataError."""
    header, state = _read(path)
    if header or not hasattr(family, "rename"):
        return state
    axes = getattr(family, "axes", lambda _: None)
    ordered = {key: value if (order := axes(key)) is None else value.transpose(order) for key, value in state.items()}
    return {new: value for key, value in ordered.items() if (new := family.rename(key)) is not None}


def family_of(name: str) -> Any:
    """Return the model class or factory of a name in :class:`Weights`. Raises UsageError."""
    require_torch()
    return find_factory(name) if ":" in name else load("model", name)


def require_file(text: str) -> Path:
    """Return the path of a file that exists. Raises UsageError."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise UsageError(f"no file '{text}'", hint="check the path")
    return path


def require_torch() -> None:
    """Raise UsageError, saying what to install, when torch cannot be imported."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "building and training networks needs torch, which is not installed", hint="pip install 'bitfront[torch]'"
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    require_torch()
    if path.suffix.lower() != ".safetensors":
        return {}, _pickled(path)
    from bitfront.train.checkpoints import load_checkpoint

    return load_checkpoint(path)


def _pickled(path: Path) -> dict[str, Any]:
    """Read a ``.pt`` state dict without running any code of it."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = _flat(state.get("state_dict", state))
        return {str(k): (v.float() if v.is_floating_point() else v).numpy() for k, v in state.items()}
    except Exception as error:
        raise DataError(
            f"'{path}' is damaged, or holds more than tensors and could run code when opened",
            hint="where you trust it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Join the names of a state dict that is kept part by part."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        found |= {f"{key}.{k}": v for k, v in _flat(value).items()} if isinstance(value, Mapping) else {key: value}
    return found
