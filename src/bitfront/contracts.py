"""The plug-in contracts on one page.

Plug-ins are leaves: found by name in the catalogue (:mod:`bitfront.catalog`), imported by nobody, strangers to each
other. A plug-in is a frozen dataclass or a class whose fields are its options; the tests in ``tests/contract`` cover
every one in the catalogue.

Words: images are uint8 ``(h, w, 3)`` RGB; batches float32 ``(b, c, h, w)``; label maps uint8 ``(h, w)`` with 255 for
"ignore"; boxes float32 ``(n, 4)`` x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bitfront.device import Device

if TYPE_CHECKING:
    import torch

    from bitfront.graph.ir import Graph
    from bitfront.quant.plan import Plan

__all__ = [
    "IGNORE",
    "Batch",
    "DataInfo",
    "Dataset",
    "Device",
    "Head",
    "InputContract",
    "Meter",
    "Metrics",
    "Model",
    "Objective",
    "OutputContract",
    "Part",
    "Prediction",
    "Runtime",
    "Sample",
    "Scorer",
    "Session",
    "Task",
    "Tracker",
]

IGNORE = 255
"""The label of pixels that no loss and no metric counts."""


# --- what flows ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image with whatever labels it has."""

    id: str
    """Identity: the path relative to the dataset's root, with forward slashes."""
    image: NDArray[np.uint8]
    """``(h, w, 3)`` RGB."""
    mask: NDArray[np.uint8] | None = None
    """``(h, w)`` class indices, 255 = ignore (segmentation)."""
    boxes: NDArray[np.float32] | None = None
    """``(n, 4)`` x1 y1 x2 y2 in pixels (detection)."""
    labels: NDArray[np.int64] | None = None
    """``(n,)`` class of each box."""
    label: int | None = None
    """Class of the whole image (classification)."""
    ignored: NDArray[np.bool_] | None = None
    """``(n,)`` boxes that count neither as found nor as missed: crowds of COCO, difficult objects of VOC."""


Part = Sequence[Sample]
"""One part (train, val, test) of a dataset: indexing decodes, so a part of any size fits in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Preprocessed samples, ready for a network."""

    images: NDArray[np.float32]
    """``(b, c, h, w)``, normalized."""
    masks: NDArray[np.uint8] | None = None
    """``(b, h, w)`` at the size of ``images``."""
    boxes: tuple[NDArray[np.float32], ...] = ()
    labels: tuple[NDArray[np.int64], ...] = ()
    label: NDArray[np.int64] | None = None
    """``(b,)``."""
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one image, in that image's own pixels."""

    mask: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float32] | None = None
    """``(n, 4)`` x1 y1 x2 y2 (detection), the highest score first."""
    labels: NDArray[np.int64] | None = None
    """``(n,)`` class of each box among the objects' classes: those of the data without its background."""
    scores: NDArray[np.float32] | None = None
    """``(n,)`` of the boxes; of a whole image ``(k,)``, the logits of its classes (classification)."""
    label: int | None = None
    """Class of the whole image (classification)."""


@dataclass(frozen=True, slots=True)
class DataInfo:
    """What a dataset is: its classes (for segmentation index 0.. is the label value) and how to draw them."""

    name: str
    classes: tuple[str, ...]
    tasks: tuple[str, ...] = ("segmentation",)
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore_label: int = IGNORE
    background: int | None = None
    """The class that is not an object (left out of foreground scores); ``None`` when all classes are equals."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """What the data's own description asks of preprocessing (``mean``, ``std``, ``resize``); empty when silent."""
    augment: str = "light"
    """The augmentation (:data:`bitfront.augment.AUGMENTS`) that training takes when none is named."""

    @property
    def objects(self) -> tuple[int, ...]:
        """The classes that are objects: all but the background; a detector's class ``i`` is the ``i``-th of them."""
        return tuple(i for i in range(len(self.classes)) if i != self.background)

    def among_objects(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices into ``classes`` -> indices into the objects; -1 for what is no object."""
        place = {label: i for i, label in enumerate(self.objects)}
        return np.array([place.get(int(label), -1) for label in labels], np.int64)


@dataclass(frozen=True, slots=True)
class InputContract:
    """How to feed an artifact: everything between a decoded RGB image and the network's first tensor.

    A pixel ``p`` in 0..255 becomes ``(p / 255 - mean) / std`` per channel; for integer inputs that value is then
    quantized with ``scale`` and ``zero_point``.
    """

    height: int
    width: int
    channels: int = 3
    layout: str = "nchw"
    """``nchw`` or ``nhwc``."""
    dtype: str = "float32"
    """``float32``, ``float16``, ``uint8`` or ``int8``."""
    color: str = "rgb"
    """``rgb``, ``bgr`` or ``y`` (luma of Y'CbCr, one channel)."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: str = "bilinear"
    """A kernel of :func:`bitfront.images.resize`: ``bilinear`` (antialiased), ``bilinear_plain``, ``nearest``, ..."""
    fit: str = "stretch"
    """``stretch`` or ``letterbox``."""
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """How a detector codes boxes in its output ``(b, k, n)``: ``k`` numbers at each of ``n`` places.

    Places are ordered by level, then row, column and anchor; a level has ``ceil(height / stride)`` rows and
    ``ceil(width / stride)`` columns. Without ``anchors`` the places have no order. With ``K`` classes the kinds are

    - ``yolo_v5``: x y w h objectness and K classes, raw; ``yolo_v2``: the same numbers, read as in that paper;
    - ``ssd``: y x h w and 1 + K classes, raw, the first of them background (Liu et al. 2016, section 2.2);
    - ``decoded``: centre x y, w, h, objectness and K classes, before non-maximum suppression;
    - ``boxes``: x1 y1 x2 y2, score and class, after it; a score of 0 is no box.
    """

    kind: str
    strides: tuple[int, ...] = ()
    """Pixels of the input between the cells of each level."""
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Width and height of each anchor of each level: pixels of the input; of ``ssd`` shares of it."""
    layout: str = "bkn"
    """``bkn``; ``bnk`` for files that put the places first; ``maps`` for ``(b, anchors * k, rows, columns)``."""
    unit: float = 1.0
    """Units of ``decoded`` and ``boxes`` in a pixel of the input; 0: shares of its width and height."""
    ids: tuple[int, ...] = ()
    """The number that ``boxes`` gives each class, where they do not count from 0; other numbers are no box."""


@dataclass(frozen=True, slots=True)
class OutputContract:
    """How to read an artifact's first output."""

    readout: str = "argmax"
    """``argmax`` (logits, one channel a class), ``threshold`` (one channel: value > ``threshold`` is class 1),
    ``labels`` (already class indices), ``boxes`` (as ``head`` says)."""
    threshold: float = 0.0
    layout: str = "nchw"
    classes: tuple[str, ...] = ()
    """Of a detector the classes of objects, without a background."""
    head: Head | None = None
    """How boxes are coded (detection)."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Scores of one model on one part; every number carries its definition."""

    score: str
    """Name of the score that drives the search, a key of ``values``."""
    values: Mapping[str, float | None]
    """Name -> value in [0, 1]; ``None`` where it is not defined (no pixel of any class)."""
    definitions: Mapping[str, str]
    """Name -> how it is computed."""
    per_class: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """Metric -> class name -> value; absent classes are ``None``."""
    n: int = 0
    """Number of images."""
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval of the score over images."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Pixel (or sample) counts, rows = truth, columns = prediction."""
    per_sample_name: str = ""
    """What ``per_sample`` holds; empty: ``score``."""
    per_sample: Mapping[str, float] = field(default_factory=dict)
    """Sample id -> the score of that image alone (to find the worst)."""
    curves: Mapping[str, Mapping[str, tuple[tuple[float, float], ...]]] = field(default_factory=dict)
    """Name -> class name -> points x y: of a detector ``precision_recall`` at intersection over union 0.5."""

    @property
    def value(self) -> float:
        """The score that drives the search; 0 when it is undefined."""
        return float(self.values[self.score] or 0.0)


# --- leaves ----------------------------------------------------------------------------------------------------------
@runtime_checkable
class Dataset(Protocol):
    """Reads one layout of files. ``catalog`` names a class with these members."""

    info: DataInfo

    @classmethod
    def open(cls, root: Path | None, **options: Any) -> Dataset:
        """Open the data below ``root`` (``None`` for generated data). Raises DataError, UsageError."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether ``root`` looks like this layout (cheap: looks at names, decodes nothing)."""

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that exist, of ``train``, ``val``, ``test``."""

    def part(self, name: str) -> Part:
        """Return one part. Raises DataError when it does not exist, naming those that do."""

    def files(self, name: str) -> Sequence[tuple[Path, Path | None]]:
        """Image and label file of each sample of a part, in order; empty for generated data."""

    def digest(self, name: str) -> str:
        """Content id of a part: changes when any image, label or option changes."""


class Meter(Protocol):
    """Adds up predictions; constant memory."""

    def add(self, prediction: Prediction, sample: Sample) -> None:
        """Count one image."""

    def result(self) -> Metrics:
        """Return the scores of all that was added."""


class Scorer(Protocol):
    """Scores many candidates on the same samples: what a :class:`Meter` says of their predictions, in less time."""

    def count(self, positions: Sequence[int], outputs: NDArray[Any]) -> Sequence[Any]:
        """Return what is to be known of each sample at ``positions``, given the raw outputs of their batch."""

    def score(self, counts: Sequence[Any]) -> float:
        """Return the score over the samples that were counted; NaN where it is undefined."""


@runtime_checkable
class Task(Protocol):
    """What is asked of a network: its loss, its read-out, its scores and its pictures."""

    name: str

    def channels(self, info: DataInfo) -> int:
        """Output channels that a model needs for these classes."""

    def output(self, channels: int, info: DataInfo, head: Head | None = None) -> OutputContract:
        """The read-out of a network with this many classes or output channels, and this head where it has one.

        Raises UsageError when they do not fit.
        """

    def loss(self, outputs: torch.Tensor, batch: Batch, info: DataInfo, output: OutputContract) -> torch.Tensor:
        """Scalar training loss; ``outputs`` are logits: ``(b, k, h, w)`` of maps, ``(b, k)`` of whole images, and of
        detectors what ``output.head`` says. Auxiliary outputs are the model's affair.
        """

    def predict(
        self, outputs: NDArray[Any], output: OutputContract, sizes: Sequence[tuple[int, int]], fed: InputContract
    ) -> list[Prediction]:
        """Turn raw outputs of a batch into predictions at the ``(h, w)`` of each original image.

        ``fed`` is how these images became the network's input.
        """

    def meter(self, info: DataInfo, score: str = "") -> Meter:
        """Return a fresh meter; ``score`` chooses the metric that drives the search."""

    def scorer(
        self, samples: Sequence[Sample], output: OutputContract, info: DataInfo, score: str, fed: InputContract
    ) -> Scorer:
        """Return a scorer of raw outputs for these samples; it keeps their labels, not their images."""

    def draw(self, image: NDArray[np.uint8], prediction: Prediction, info: DataInfo) -> NDArray[np.uint8]:
        """Draw a prediction on the image (which may be enlarged and get a strip with text)."""


@runtime_checkable
class Model(Protocol):
    """A network family: a frozen dataclass whose fields are its options; the options in ``knobs`` are searchable.

    A family may say more: ``usual_size``, the (height, width) that it is used at when nobody says another (256x256);
    ``any_size``, false where it takes no other; ``usual_preprocess``, how it wants to be fed (a key of
    :data:`bitfront.feeding.PREPROCESS`; ``imagenet``); ``usual_fit``, ``letterbox`` or ``stretch`` (the usual);
    ``usual_resize``, its kernel of :func:`bitfront.images.resize` (``bilinear``);
    ``head``, a property of detectors: the :class:`Head` of a network with these options.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]]
    """Option -> the values a search may try, from cheap to costly."""
    size_multiple: ClassVar[int]
    """Height and width must be multiples of this."""

    classes: int
    channels: int

    def build(self) -> torch.nn.Module:
        """Build the network with fresh weights, drawn from torch's current generator.

        The module may say more: ``backbone_parts``, names of the parts that extract features (without it the part
        ``backbone``); ``training_outputs(images)``, the logits and those of auxiliary heads, each with its loss;
        ``training_loss(images, batch, labels)``, the loss itself where it cannot be told from the outputs (detectors
        of two stages; ``labels``: the class of each box among the objects' classes);
        ``training_only``, prefixes of the keys of such heads, which are not counted and not exported; ``torch_only``,
        why it cannot become a graph.
        """

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a foreign state dict (key -> shape; ``stem``: its file name), or ``None`` if it is not ours.

        A family whose feature extractor can come from another network's file also has ``recognise_backbone(shapes)``:
        the options that it asks for, or ``None``. One that knows files with another order of axes has ``axes(key)``.
        """

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a foreign state dict's key; ``None`` to leave it out."""


class Session(Protocol):
    """An opened artifact."""

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Run normalized float32 ``(b, c, h, w)`` images; returns the first output: ``(b, k, h, w)``, ``(b, k)`` of
        whole images, ``(b, k, n)`` of detectors.

        The session itself quantizes, transposes and splits batches as its artifact's input contract says.
        """

    def close(self) -> None:
        """Free what is held."""


@runtime_checkable
class Runtime(Protocol):
    """Writer and reader of one kind of artifact: only this file knows what that engine wants."""

    name: str
    recipes: tuple[str, ...]
    """Names of the quantization recipes it can export, float32 first where it has it."""
    suffix: str
    """File ending of its artifacts, with the dot."""
    tolerance_codes: int
    """How many codes an exported file may differ from the reference and still be called verified.

    An engine that fuses operators, and then rounds less often than the plan, may also have ``end_tolerance_codes``:
    what the whole file may be off, while every layer alone keeps to ``tolerance_codes``.
    """

    def missing(self) -> str:
        """Why this runtime cannot be used here and what to install; empty when it can."""

    def version(self) -> str:
        """Version of the engine."""

    def export(self, graph: Graph, plan: Plan, folder: Path, contract: InputContract, output: OutputContract) -> Path:
        """Write the artifact's file into ``folder`` and return its path."""

    def open(self, path: Path, threads: int = 1) -> Session:
        """Open an artifact's file. Raises DataError when the engine refuses it."""


@runtime_checkable
class Objective(Protocol):
    """One axis of the front, read off a record."""

    name: str
    unit: str
    maximize: bool

    def value(self, record: Any) -> float | None:
        """The number of a :class:`bitfront.record.Record`, or ``None`` when it was not measured."""


@runtime_checkable
class Tracker(Protocol):
    """Sends parameters, curves and files elsewhere; never over a network, and a failing tracker never stops a run."""

    name: ClassVar[str]

    @classmethod
    def missing(cls) -> str:
        """Why this tracker cannot be used here and what to install; empty when it can."""

    @classmethod
    def open(cls, folder: Path, run: str) -> Tracker:
        """Open the run named ``run`` below ``folder``, which all runs share; a known name goes on with that run."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log what the run was asked for: name -> plain value."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of one step."""

    def artifact(self, path: Path, name: str) -> None:
        """Log a file of the run under a name with forward slashes."""

    def close(self) -> None:
        """Flush."""
