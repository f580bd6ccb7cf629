"""The MODEL and DATA arguments of every verb: texts -> an opened dataset, and a model that can be built.

MODEL is a catalogue name, a checkpoint (``.safetensors``; ``.pt`` only where torch opens it without running code), an
``.onnx`` or ``.tflite`` file, or ``package.module:factory`` for anyone's own torch module. DATA is a catalogue name
(``name:folder`` chooses the reader of a folder), a folder, a data YAML, or a CSV file of paths and labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitfront.contracts import DataInfo, Dataset, InputContract, OutputContract, Task
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.factories import build_module, check_options, complete, find_factory, output_channels, with_classes
from bitfront.feeding import PREPROCESS, feed, normalization, usual
from bitfront.graph import capture, files
from bitfront.graph.ir import Graph
from bitfront.record import content_id, digest_file
from bitfront.registry import load, names, runtime_of
from bitfront.safeyaml import read
from bitfront.weights import (
    SUFFIXES,
    Weights,
    arrays,
    choose,
    family_of,
    find_weights,
    recognise,
    require_file,
    require_torch,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Source", "describe_file", "open_data", "open_model"]

FOREIGN_SIZE = (512, 512)
"""Size of a checkpoint that does not say what it was trained at."""
FRESH_SIZE = (256, 256)
"""Size of a network that does not say at which it is used."""
FACTORY_MULTIPLE = 32
FILES = {".csv": "csv", ".json": "annotated"}
"""Readers of single files by their ending."""
GENERAL = ("annotated", "folder", "class_folder", "csv")
"""Readers of layouts that others are special cases of."""


# --- data ------------------------------------------------------------------------------------------------------------
def open_data(text: str, reader: str = "", **options: Any) -> Dataset:
    """Open data by catalogue name, ``name:folder``, folder or data YAML.

    Raises UsageError for unknown names and for folders in no known layout, DataError for data that cannot be read.
    """
    known = names("dataset")
    head, colon, rest = text.partition(":")
    if reader:
        return _open(reader, Path(text), options)
    if text in known and not Path(text).is_dir():
        return _open(text, None, options)
    if colon and head in known:
        return _open(head, Path(rest).expanduser(), options)
    path = Path(text).expanduser()
    if path.suffix.lower() in (".yaml", ".yml"):
        return _open_chosen(path) or _open("yaml", path, options)
    if by_ending := FILES.get(path.suffix.lower()):
        return _open(by_ending, path, options)
    if not path.is_dir():
        if path.exists():
            raise UsageError(f"'{text}' is a file, not a dataset", hint="give a folder, a data YAML, a CSV or a name")
        error = unknown_name("dataset", text, known)
        raise UsageError(f"no dataset and no folder '{text}'", hint=error.hint)
    return _open(_reader(path, known), path, options)


def _open(name: str, root: Path | None, options: Mapping[str, Any]) -> Dataset:
    opened: Dataset = load("dataset", name).open(root, **options)
    return opened


def _open_chosen(path: Path) -> Dataset | None:
    """Open a YAML file that names a ``reader``, its ``path`` and its options; ``None`` when it names none."""
    document = read(path)
    options = dict(document.values)
    name, folder = options.pop("reader", None), options.pop("path", None)
    if name is None:
        return None
    if name not in names("dataset") or name == "yaml":
        raise UsageError(
            f"{document.where('reader')}: no reader '{name}'", hint=f"known: {', '.join(names('dataset'))}"
        )
    parameters = inspect.signature(load("dataset", name).open).parameters
    known = [key for key, p in parameters.items() if key != "root" and p.kind is not p.VAR_KEYWORD]
    for key in options:
        if key not in known:
            raise UsageError(f"{document.where(key)}: '{name}' has no such option", hint=f"it has {', '.join(known)}")
    generated = folder is None and parameters["root"].default is None
    root = None if generated else path.parent / Path(str(folder or ".")).expanduser()
    try:
        return _open(name, root, options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: these options do not fit '{name}': {error}", hint="check their types") from error


def _reader(root: Path, known: tuple[str, ...]) -> str:
    fitting = [name for name in known if load("dataset", name).recognises(root)]
    specific = [name for name in fitting if name not in GENERAL] or fitting
    if len(specific) == 1:
        return specific[0]
    if specific:
        raise UsageError(
            f"'{root}' looks like {' and like '.join(specific)}", hint=f"choose with --reader {specific[0]}"
        )
    raise UsageError(
        f"'{root}' has no layout that bitfront knows",
        hint="a plain folder holds train/images and train/masks, or pictures in train/CLASS; else write a data YAML, "
        f"or choose with --reader {', '.join(known)}",
    )


# --- models ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model that was asked for: how to build it, feed it and read it."""

    kind: str
    """``catalogue``, ``checkpoint``, ``factory``, ``onnx``, or ``artifact``: a file that only its runtime reads."""
    name: str
    """Catalogue name of the family, ``package.module:factory``, or the file's stem."""
    input: InputContract
    output: OutputContract
    family: Any = None
    """The model class or factory; ``None`` for files that a runtime runs."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options given, or read off the checkpoint."""
    knobs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Options of the architecture that a search may vary."""
    size_multiple: int = 1
    sized: bool = False
    """Whether the size in ``input`` was given or stored (and not a default)."""
    any_size: bool = True
    """Whether other sizes are possible (an ONNX file may fix its own)."""
    weights: tuple[Weights, ...] = ()
    """Checkpoints to start from, for the architectures they fit."""
    backbones: tuple[Weights, ...] = ()
    """Files whose feature extractor fits: architectures that none of ``weights`` fits start from theirs."""
    path: Path | None = None
    runtime: str = ""
    """The file, when there is one, and the runtime that runs it (none for networks that torch runs)."""
    digest: str = ""
    """Content id of file or options: what results are cached under."""
    notes: tuple[str, ...] = ()
    """Choices that were made for the user, one line each."""

    @property
    def baseline(self) -> Mapping[str, Any]:
        """The options, with the family's own values of knobs that were not given."""
        whole = complete(self.family, self.options)
        return {**{k: whole[k] for k in self.knobs if k in whole}, **self.options}

    def contract(self, size: tuple[int, int], options: Mapping[str, Any] | None = None) -> InputContract:
        """Return the input contract at another size ``(height, width)``, with the channels that ``options`` may name.

        Raises UsageError for sizes it cannot take.
        """
        own, n = (self.input.height, self.input.width), self.size_multiple
        if not self.any_size and size != own:
            hint = "export it with free height and width" if self.kind == "onnx" else "choose another model"
            raise UsageError(f"{self.name} takes {own[0]}x{own[1]} only", hint=hint)
        if any(side <= 0 or side % n for side in size):
            near = "x".join(str(max(n, round(side / n) * n)) for side in size)
            raise UsageError(
                f"{self.name} takes sides that are multiples of {n}, not {size[0]}x{size[1]}",
                hint=f"the nearest size that fits is {near}",
            )
        channels = int((options or {}).get("channels", self.input.channels))
        if channels == self.input.channels:
            return replace(self.input, height=size[0], width=size[1])
        mean, std = normalization(usual(self.family), channels)
        color = "y" if channels == 1 else "rgb"
        return replace(self.input, height=size[0], width=size[1], channels=channels, color=color, mean=mean, std=std)

    def whole(self, knobs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return every option of an architecture, with the family's own values of those that are not given."""
        return complete(self.family, {**self.options, **knobs})

    def weights_for(self, knobs: Mapping[str, Any], size: tuple[int, int]) -> Weights | None:
        """Return the checkpoint that fits an architecture, one trained at ``size`` first; ``None`` without one."""
        return choose(self.weights, self.whole(knobs), size)

    def backbone_for(self, knobs: Mapping[str, Any]) -> Weights | None:
        """Return the file whose feature extractor fits an architecture; ``None`` without one."""
        return choose(self.backbones, self.whole(knobs), FRESH_SIZE)

    def trained_size(self, weights: Weights) -> tuple[int, int]:
        """Return the size that a checkpoint was trained at, as it says, as the user said, or as is usual."""
        if weights.input is not None:
            return weights.input.height, weights.input.width
        return (self.input.height, self.input.width) if self.kind == "checkpoint" else FOREIGN_SIZE

    def build(self, knobs: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None) -> nn.Module:
        """Build the torch module, with the weights that fit it if there are any, else fresh ones.

        Where a file fits its feature extractor only, that part has its weights. Fresh weights are drawn from torch's
        current generator. Raises UsageError, DataError.
        """
        if self.family is None:
            raise UsageError(f"'{self.path}' cannot be trained to a checkpoint", hint="--recipe float32 trains a file")
        from bitfront.train.checkpoints import load_into
        from bitfront.train.optimizer import backbone_prefixes

        module = build_module(self.family, {**self.options, **(knobs or {})}, self.name)
        found = self.weights_for(knobs or {}, size or (self.input.height, self.input.width))
        if found is not None:
            load_into(module, arrays(found.path, self.family), str(found.path))
        elif (part := self.backbone_for(knobs or {})) is not None:
            load_into(module, arrays(part.path, self.family), str(part.path), backbone_prefixes(module))
        return module

    def graph(self, size: tuple[int, int] | None = None) -> Graph:
        """Capture the model as it stands, unprepared, at ``size`` or its own. Raises DataError."""
        height, width = size or (self.input.height, self.input.width)
        if self.runtime and self.path is not None:
            return capture.from_onnx(self.path, (height, width)) if self.kind == "onnx" else files.beside(self.path)
        return capture.from_module(self.build(size=size), (1, self.input.channels, height, width))


@dataclass(frozen=True, slots=True)
class _Request:
    text: str
    task: Task
    info: DataInfo
    settings: Mapping[str, Any]
    weights: Path | None
    preprocess: str
    decoder: str = ""


def open_model(
    text: str,
    *,
    task: Task,
    info: DataInfo,
    settings: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    preprocess: str = "",
    decoder: str = "",
) -> Source:
    """Open MODEL for a task on data with these classes.

    Args:
        text: catalogue name, ``.safetensors``, ``.pt``, ``.onnx`` or ``.tflite`` file, or ``package.module:factory``.
        task: reads the output and knows how many channels it needs.
        info: the data's classes and preprocessing.
        settings: options of the model and ``resolution`` ``(height, width)``.
        weights: a checkpoint, or a folder of them, for catalogue models and factories.
        preprocess: a key of :data:`PREPROCESS`, for models that do not say how they want to be fed.
        decoder: how another's file codes boxes, where its outputs' shapes do not say.

    Raises:
        UsageError: unknown names or options, or code of the user's that does not load.
        DataError: files that cannot be used, or that do not fit the data's classes.
    """
    chosen = dict(settings or {})
    size = chosen.pop("resolution", None)
    for key, value in {**chosen, **({"resolution": size[0]} if size else {})}.items():
        if isinstance(value, (list, tuple)):
            raise UsageError(f"'{key}' has several values", hint="only `fit` takes several: choose one here")
    if preprocess and preprocess not in PREPROCESS:
        raise unknown_name("preprocessing", preprocess, PREPROCESS)
    opened = _opened(_Request(text, task, info, chosen, weights, preprocess, decoder))
    return replace(opened, input=opened.contract(tuple(size)), sized=True) if size else opened


def _opened(request: _Request) -> Source:
    text, suffix = request.text, Path(request.text).suffix.lower()
    if text in names("model"):
        return _from_catalogue(request)
    if reader := runtime_of(text):
        return _from_file(require_file(text), request, reader)
    if suffix in SUFFIXES:
        return _from_checkpoint(require_file(text), request)
    if ":" in text:
        return _from_factory(request)
    if Path(text).is_file():
        raise UsageError(f"'{text}' is no model file", hint="models are .safetensors, .onnx and .tflite files")
    error = unknown_name("model", text, names("model"))
    raise UsageError(
        str(error), hint=f"{error.hint}; or a .safetensors, .onnx or .tflite file, or package.module:factory"
    )


def _from_catalogue(request: _Request) -> Source:
    name, task = request.text, request.task
    family = family_of(name)
    if task.name not in family.tasks:
        raise UsageError(f"model '{name}' does not do {task.name}", hint=f"it does {', '.join(family.tasks)}")
    options = {"classes": task.channels(request.info), **request.settings}
    check_options(name, family, options)
    model = family(**options)
    given = {**options, "channels": model.channels}
    found = find_weights(request.weights, family, name)
    source = Source(
        kind="catalogue",
        name=name,
        input=feed(getattr(family, "usual_size", FRESH_SIZE), model.channels, request.info, request.preprocess, family),
        output=task.output(model.classes, request.info, getattr(model, "head", None)),
        family=family,
        options=given,
        knobs={k: v for k, v in family.knobs.items() if k not in request.settings},
        size_multiple=family.size_multiple,
        any_size=getattr(family, "any_size", True),
        weights=found.whole,
        backbones=found.backbones,
        digest=content_id("catalogue", name, given),
    )
    part = source.backbone_for({})
    if part is None or source.weights_for({}, FRESH_SIZE) is not None:
        return source
    note = f"the feature extractor starts from {part.path.name}, the rest from scratch"
    return replace(source, notes=(note,))


def _from_factory(request: _Request) -> Source:
    require_torch()
    text = request.text
    factory = find_factory(text)
    options = with_classes(factory, request.settings, request.task.channels(request.info), text)
    module = build_module(factory, options, text)
    channels = int(options.get("channels", 3))
    n_out = output_channels(module, (1, channels, *FRESH_SIZE), text)
    return Source(
        kind="factory",
        name=text,
        input=feed(FRESH_SIZE, channels, request.info, request.preprocess),
        output=request.task.output(n_out, request.info),
        family=factory,
        options=options,
        knobs={k: v for k, v in getattr(factory, "knobs", {}).items() if k not in request.settings},
        size_multiple=int(getattr(factory, "size_multiple", FACTORY_MULTIPLE)),
        weights=find_weights(request.weights, factory, text).whole,
        digest=content_id("factory", text, options, {k: list(v.shape) for k, v in module.state_dict().items()}),
    )


def _from_checkpoint(path: Path, request: _Request) -> Source:
    if request.settings:
        raise UsageError(
            f"'{path}' has its options inside, and '{next(iter(request.settings))}' cannot be changed",
            hint="give the model's name and --weights instead",
        )
    weights, info = recognise(path), request.info
    family = family_of(weights.model)
    contract = weights.input
    notes: tuple[str, ...] = ()
    if contract is None or request.preprocess:
        size = getattr(family, "usual_size", FOREIGN_SIZE)
        contract = feed(size, int(weights.options.get("channels", 3)), info, request.preprocess, family)
        how = request.preprocess or ("the data's" if info.preprocess else usual(family))
        notes = (
            f"{path.name} does not say how it was trained: fed at {contract.height}x{contract.width} with {how} "
            "normalization; --set resolution= and --preprocess change that",
        )
    if weights.classes and weights.classes != info.classes:
        raise DataError(
            f"'{path}' was trained for {_listed(weights.classes)}, and '{info.name}' has {_listed(info.classes)}",
            hint="choose data with the same classes, or train again",
        )
    n_out = int(weights.options.get("classes", 0)) or request.task.channels(info)
    head = family(**weights.options).head if hasattr(family, "head") else None
    return Source(
        kind="checkpoint",
        name=weights.model,
        input=contract,
        output=request.task.output(n_out, info, head),
        family=family,
        options=weights.options,
        size_multiple=int(getattr(family, "size_multiple", FACTORY_MULTIPLE)),
        any_size=getattr(family, "any_size", True),
        sized=weights.input is not None,
        weights=(weights,),
        path=path,
        digest=weights.sha256,
        notes=notes,
    )


def _from_file(path: Path, request: _Request, runtime: str) -> Source:
    if request.settings:
        raise UsageError(f"'{path}' is fixed, and '{next(iter(request.settings))}' cannot be changed")
    found = describe_file(path, runtime, request.preprocess, request.info, request.decoder)
    known = request.info.classes
    if found.output.head is not None:
        known = tuple(known[i] for i in request.info.objects)
    if found.output.classes and len(found.output.classes) != len(known):
        ours, theirs = _listed(known), _listed(found.output.classes)
        raise DataError(
            f"'{path}' answers with {theirs}, and '{request.info.name}' has {ours}",
            hint="choose data with the same classes",
        )
    return Source(
        kind="onnx" if path.suffix.lower() == ".onnx" else "artifact",
        name=path.stem,
        input=found.input,
        output=found.output,
        sized=True,
        any_size=found.any_size,
        path=path,
        runtime=runtime,
        digest=digest_file(path),
        notes=tuple(found.notes),
    )


def describe_file(
    path: Path, runtime: str, preprocess: str = "", info: DataInfo | None = None, decoder: str = ""
) -> Any:
    """Return how a runtime says that a file is fed and read. Raises UsageError, DataError."""
    engine = load("runtime", runtime)()
    if decoder and "decoder" not in inspect.signature(engine.describe).parameters:
        raise UsageError(f"'{path}' says itself how it is read, not by --decoder {decoder}", hint="leave --decoder out")
    return engine.describe(path, preprocess=preprocess, info=info, **({"decoder": decoder} if decoder else {}))


def _listed(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''})"
