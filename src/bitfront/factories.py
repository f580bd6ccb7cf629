"""What gives a network: ``package.module:factory`` -> a callable; its options, and the torch module that it makes."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitfront.errors import BitfrontError, UsageError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["build_module", "check_options", "complete", "find_factory", "output_channels", "with_classes"]


def find_factory(text: str) -> Callable[..., Any]:
    """Import ``package.module:factory``, looking in the current folder first. Raises UsageError."""
    place, _, attribute = text.partition(":")
    if not all(part.isidentifier() for part in [*place.split("."), *attribute.split(".")]):
        raise UsageError(f"'{text}' is not package.module:factory", hint="for example mynets.small:build")
    with _current_folder():
        try:
            found: Any = importlib.import_module(place)
        except ModuleNotFoundError as error:
            missing = f"it imports '{error.name}', which is not installed" if error.name != place else "there is none"
            raise UsageError(
                f"cannot import '{place}': {missing}", hint=f"run bitfront in the folder of {place.split('.')[0]}"
            ) from error
        except Exception as error:
            raise UsageError(
                f"'{place}' fails on import: {type(error).__name__}: {error}", hint=f"try: python -c 'import {place}'"
            ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            public = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
            raise UsageError(
                f"'{place}' has no '{name}'", hint=f"it has: {', '.join(sorted(public)[:10]) or 'nothing'}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise UsageError(f"'{text}' is a {type(found).__name__}", hint="name a function or class that gives a network")
    result: Callable[..., Any] = found
    return result


@contextmanager
def _current_folder() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def with_classes(factory: Callable[..., Any], settings: Mapping[str, Any], classes: int, text: str) -> dict[str, Any]:
    """Return the settings, and ``classes`` where the factory takes it. Raises UsageError for unknown settings."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return dict(settings)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in settings if key not in parameters and not anything]
    if unknown:
        raise UsageError(f"'{text}' takes no '{unknown[0]}'", hint=f"it takes: {', '.join(parameters) or 'nothing'}")
    return {"classes": classes, **settings} if "classes" in parameters else dict(settings)


def output_channels(module: nn.Module, shape: tuple[int, ...], text: str) -> int:
    """Return the channels of the network's answer to an image ``(1, c, h, w)``. Raises UsageError when it is no map."""
    import torch

    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            answer = module(torch.zeros(shape))
    except Exception as error:
        raise UsageError(
            f"'{text}' fails on an image {shape}: {type(error).__name__}: {error}",
            hint="forward must take a float32 batch (n, channels, height, width)",
        ) from error
    finally:
        module.train(training)
    if not isinstance(answer, torch.Tensor) or answer.ndim != 4 or answer.shape[-2:] != shape[-2:]:
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise UsageError(
            f"'{text}' answers an image {shape} with {got}",
            hint="forward must return logits (n, classes, height, width) at the size of the image",
        )
    return int(answer.shape[1])


def complete(family: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options with the family's defaults for those that are not given."""
    if not is_dataclass(family):
        return options
    return {**{f.name: f.default for f in fields(family)}, **options}


def check_options(name: str, family: Any, options: Mapping[str, Any]) -> None:
    """Raise UsageError for options that a family of the catalogue does not have, and words where it wants numbers."""
    known = {f.name: f.default for f in fields(family)}
    for option, value in options.items():
        if option not in known:
            raise unknown_name(f"option of {name}", option, {*known, "resolution"})
        wants_number = isinstance(known[option], (int, float))
        if wants_number and not isinstance(value, (int, float)):
            raise UsageError(
                f"{name}: {option} is a number, not '{value}'", hint=f"for example {option}={known[option]}"
            )


def build_module(family: Any, options: Mapping[str, Any], name: str) -> nn.Module:
    """Build a network of a family or factory. Raises UsageError when it fails, or gives something else."""
    from torch import nn

    try:
        made = family(**options)
        module = made if isinstance(made, nn.Module) or not hasattr(made, "build") else made.build()
    except BitfrontError:
        raise
    except Exception as error:
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise UsageError(
            f"'{name}' cannot be built with {given or 'no options'}: {type(error).__name__}: {error}",
            hint="it must return a torch.nn.Module, or an object whose build() does",
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"'{name}' gives a {type(module).__name__}", hint="it must give a torch.nn.Module")
    return module
