"""What a distillation is told: what the student learns of its teacher, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitfront.errors import UsageError, unknown_name

__all__ = ["DISTILL_PRESETS", "METHODS", "DistillOptions"]

METHODS = ("outputs", "features", "both")
THESIS_ANCHORS = (
    (1.3221, 1.73145),
    (3.19275, 4.00944),
    (5.05587, 8.09892),
    (9.47112, 4.84053),
    (11.2364, 10.0071),
)
"""YOLOv2's anchors on VOC, in cells whatever the grid: what thesis 004 masked with."""
CLIP_WITH_FEATURES = 10.0
"""Largest norm of the gradient where features are imitated (Wang et al. 2019)."""


@dataclass(frozen=True, slots=True)
class DistillOptions:
    """Options of :class:`bitfront.train.distill.Distiller`. UsageError for values without sense."""

    method: str = "outputs"
    """``outputs`` (Hinton et al. 2015; of detectors Mehta and Ozturk 2018), ``features`` (Wang et al. 2019), or
    ``both``."""
    factor: float = 1.0
    """Distillation factor: weight of the teacher's outputs beside the labels."""
    temperature: float = 4.0
    """Divides the logits of both before they are compared (classification, segmentation)."""
    gains: tuple[float, ...] = (0.05, 1.0, 0.5)
    """Weights of box, objectness and classes (detection)."""
    objectness: str = "scaled"
    """``scaled`` by the teacher's objectness like the other terms (thesis 004), or ``plain``: every place counts the
    same (the paper)."""
    boxes: str = "logits"
    """Boxes are compared as raw numbers (``logits``) or as centres in cells and sizes in anchors (``decoded``)."""
    suppress: int = 0
    """Cells on a side of the neighbourhood in which only the teacher's surest place of a class teaches (the paper's
    suppression on feature maps), odd; 0: all places do."""
    feature: str = ""
    """The student's part whose output is imitated, ``PART:in`` for its input; empty: as the family says."""
    teacher_feature: str = ""
    """The teacher's part; empty: the same, where it has one of that name, else as its family says."""
    imitation: float = 0.01
    """Weight of the imitated feature."""
    mask: str = "anchors"
    """Where features of detectors are imitated: near true boxes, as ``anchors`` overlap them, or at every place
    (``none``). The other tasks have no mask."""
    anchors: str = "level"
    """Anchors of the mask: those of the head's ``level`` with the feature's stride, or those of ``thesis_004``."""
    threshold: float = 0.5
    """Share of the best overlap with a box from which an anchor's cell is imitated."""
    imitate_after: int = -1
    """Steps before features are imitated; -1: 400, at most one epoch."""
    clip_gradient: float = -1.0
    """Largest norm of the gradient, 0 for any; -1: 10 where features are imitated."""
    teacher_mode: str = "eval"
    """``train`` makes the teacher normalize by the batch, as thesis 004 did for outputs."""
    train_adapter: bool = True
    """False leaves the adaptation layer random, as thesis 004 did."""
    transposed: bool = False
    """True swaps rows and columns of the mask, as thesis 004 did (square inputs only)."""
    mean_over: str = "image"
    """A masked difference is a mean over the cells of its ``image``, or of the whole ``batch`` (thesis 004)."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name, known in (
            ("method", METHODS),
            ("objectness", ("scaled", "plain")),
            ("boxes", ("logits", "decoded")),
            ("mask", ("anchors", "none")),
            ("anchors", ("level", "thesis_004")),
            ("teacher_mode", ("eval", "train")),
            ("mean_over", ("image", "batch")),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(f"distillation {name}", getattr(self, name), known)
        for name in ("factor", "imitation"):
            if not 0 <= getattr(self, name) < 1e6:
                raise UsageError(f"distillation: {name} must be at least 0, not {getattr(self, name)}")
        if not 0 < self.temperature < 1e6:
            raise UsageError(f"distillation: temperature must be above 0, not {self.temperature}")
        if not 0 < self.threshold < 1:
            raise UsageError(f"distillation: threshold must lie between 0 and 1, not {self.threshold}")
        if self.suppress and (self.suppress < 3 or self.suppress % 2 == 0):
            raise UsageError(f"distillation: suppress must be 0 or odd and at least 3, not {self.suppress}")
        if len(self.gains) != 3 or not all(0 <= g < 1e6 for g in self.gains):
            raise UsageError("distillation: gains are three numbers: of boxes, objectness and classes")

    @property
    def of_outputs(self) -> bool:
        """Whether outputs are compared."""
        return self.method != "features"

    @property
    def of_features(self) -> bool:
        """Whether a feature is imitated."""
        return self.method != "outputs"

    @property
    def max_gradient(self) -> float:
        """Largest norm of the gradient; 0: any."""
        usual = CLIP_WITH_FEATURES if self.of_features else 0.0
        return usual if self.clip_gradient < 0 else self.clip_gradient


DISTILL_PRESETS: Mapping[str, DistillOptions] = {
    "default": DistillOptions(),
    "paper": DistillOptions(objectness="plain", boxes="decoded", suppress=3),
    "thesis_004": DistillOptions(
        teacher_mode="train",
        train_adapter=False,
        transposed=True,
        anchors="thesis_004",
        mean_over="batch",
        imitate_after=0,
        clip_gradient=0,
    ),
}
"""Whole set-ups by name. ``paper`` is nearer to Mehta and Ozturk (2018); ``thesis_004`` does what the code beside that
thesis did, mistakes included (its teacher of features had random weights, too)."""
