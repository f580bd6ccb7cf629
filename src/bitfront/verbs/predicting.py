"""predict: what a model says of pictures, folders of them, videos, streams and cameras."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront import video
from bitfront.contracts import Prediction, Session
from bitfront.decode import EXTENSIONS, read_image
from bitfront.errors import DataError, UsageError
from bitfront.images import jpeg, png
from bitfront.screen import Window
from bitfront.store import atomic_write
from bitfront.verbs.answering import FOR_PICTURES, Laps, Times, answered, times_of, with_thresholds
from bitfront.verbs.opening import Opened, Progress, open_both, open_session, untrained
from bitfront.verbs.run_report import answer_of, report_of, write
from bitfront.verbs.scoring import chosen

__all__ = ["Pictures", "Predicted", "opened_pictures", "predict"]

WARM_UP = 2
"""Answers to the first picture before the clock counts."""
SAVED = Path("predictions")


@dataclass(frozen=True, slots=True)
class Predicted:
    """What :func:`predict` found and wrote."""

    folder: Path | None
    files: tuple[Path, ...]
    seconds: float
    times: Times | None
    """Without the first answers, which warm up."""
    report: Mapping[str, Any]
    """As ``--report`` writes it; its ``predictions`` are what the model said."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where pictures come from."""

    name: str
    frames: Iterator[tuple[str, NDArray[np.uint8]]]
    """Name and uint8 ``(h, w, 3)`` of each."""
    n: int = 0
    """0 where nobody knows."""
    rate: Fraction | None = None
    """Frames a second of a video."""


def predict(
    model: str,
    images: Path | str | None = None,
    out: Path | str | None = None,
    *,
    camera: int | None = None,
    data: str | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    labels: str = "",
    decoder: str = "",
    confidence: float | None = None,
    iou: float | None = None,
    max_boxes: int | None = None,
    limit: int | None = None,
    seed: int | None = None,
    save: bool = False,
    show: bool = False,
    masks: bool = False,
    report: Path | str | None = None,
    csv: Path | str | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Predicted:
    """Ask a model about pictures: times of every part, answers as data, drawn, shown.

    Args:
        model: catalogue name, checkpoint, ``.onnx`` or ``.tflite`` file, or ``package.module:factory``.
        images: a picture, a folder of them (not below it), a video, or the address of a stream.
        out: folder for what is drawn: pictures with a legend, or a video.
        camera: number of a camera, instead of ``images``.
        data: names and colours of classes where the model file has none.
        settings: knobs, e.g. ``{"resolution": (320, 320)}``.
        weights: checkpoint for catalogue models and factories.
        preprocess: how a file that does not say it wants to be fed.
        reader: reader of the data folder.
        task: what is asked of the network.
        labels: names of classes: ``coco``, ``voc``, a file with one name a line, or ``a,b,c``.
        decoder: how another's detector is read, where its outputs do not say.
        confidence: boxes with a score above it are found (0.25).
        iou: boxes of a class that overlap a better one more than this are dropped (0.45).
        max_boxes: boxes of a picture at most (300).
        limit: so many pictures of a folder, evenly apart; so many frames of a video.
        seed: chooses the pictures of ``limit`` at random.
        save: draw into ``out``, or ``predictions`` without one.
        show: in a window; pictures wait for a key.
        masks: write label maps, too, as PNG.
        report: JSON file of everything that was found.
        csv: table to which one line is added.
        threads: threads of the runtime.
        progress: called with a stage, what is done and what there is.

    Raises:
        UsageError: wrong names or options.
        DataError: model files, pictures or videos that cannot be used.
        DeviceError: no such camera, no display, no PyAV.
        SpaceError: no space left.
    """
    start = time.monotonic()
    folder = Path(out) if out is not None else SAVED if save or masks else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"--out: '{folder}' is a file", hint="name a folder")
    given = {"confidence": confidence, "iou": iou, "max_boxes": max_boxes}
    with contextlib.ExitStack() as stack:
        pictures = stack.enter_context(opened_pictures(images, camera, limit, seed))
        opened = open_both(
            model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights,
            labels=labels, decoder=decoder,
        )  # fmt: skip
        opened = replace(opened, task=with_thresholds(opened.task, given, FOR_PICTURES))
        session = stack.enter_context(contextlib.closing(open_session(opened.source, threads)))
        drawing = stack.enter_context(_Drawing(opened, pictures, folder, masks, show))
        laps, found, is_whole = _asked(session, opened, pictures, drawing, progress)
    written = report_of(opened, model, pictures.name, threads, times_of(laps), found)
    write(written, report, csv)
    notes = (*opened.source.notes, *untrained(opened.source), *getattr(session, "notes", ()))
    notes += () if is_whole else (f"stopped after {len(found)} pictures",)
    return Predicted(folder, tuple(drawing.files), time.monotonic() - start, times_of(laps), written, notes)


def _asked(
    session: Session, opened: Opened, pictures: Pictures, drawing: _Drawing, progress: Progress | None
) -> tuple[list[Laps], list[dict[str, Any]], bool]:
    """Go through the pictures; returns times, answers, and whether all there were have been seen.

    What has no end of its own (a camera, a stream) may be ended from the keyboard.
    """
    laps: list[Laps] = []
    found: list[dict[str, Any]] = []
    try:
        for index, (name, image) in enumerate(pictures.frames):
            for _ in range(0 if index else WARM_UP):
                answered(session, opened.task, opened.source, image)
            prediction, spent = answered(session, opened.task, opened.source, image)
            laps.append(spent)
            found.append(answer_of(name, prediction, opened.info))
            if progress:
                progress("predict", index + 1, pictures.n)
            if not drawing.add(name, image, prediction):
                return laps, found, False
    except KeyboardInterrupt:
        if pictures.n or not found:
            raise
        return laps, found, False
    if not found:
        raise DataError(f"{pictures.name} holds no picture", hint="is it whole?")
    return laps, found, True


class _Drawing:
    """Answers drawn on their pictures: files in a folder, one video, a window."""

    def __init__(self, opened: Opened, pictures: Pictures, folder: Path | None, masks: bool, show: bool) -> None:
        self.opened, self.pictures, self.folder, self.masks = opened, pictures, folder, masks
        self.files: list[Path] = []
        self._stack = contextlib.ExitStack()
        self._window = self._stack.enter_context(Window(f"bitfront: {pictures.name}")) if show else None
        self._add_frame: Callable[[NDArray[np.uint8]], None] | None = None

    def __enter__(self) -> _Drawing:
        if self.folder is not None and self.pictures.rate is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{self.pictures.name.replace('.', '_')}.mp4"
            self._add_frame = self._stack.enter_context(video.writer(path, self.pictures.rate))
            self.files.append(path)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, name: str, image: NDArray[np.uint8], prediction: Prediction) -> bool:
        """Draw an answer; returns whether to go on."""
        if self.folder is None and self._window is None:
            return True
        drawn = self.opened.task.draw(image, prediction, self.opened.info)
        if self._add_frame is not None:
            self._add_frame(drawn)
        elif self.folder is not None:
            self._save(self.folder / f"{Path(name).stem}_{Path(name).suffix[1:].lower()}.jpg", drawn, prediction)
        return self._window is None or self._window.show(drawn, wait=self.pictures.rate is None)

    def _save(self, path: Path, drawn: NDArray[np.uint8], prediction: Prediction) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, jpeg(drawn))
        self.files.append(path)
        if self.masks and prediction.mask is not None:
            atomic_write(path.with_suffix(".png"), png(prediction.mask))
            self.files.append(path.with_suffix(".png"))


# --- where pictures come from ----------------------------------------------------------------------------------------
@contextlib.contextmanager
def opened_pictures(
    images: Path | str | None, camera: int | None = None, limit: int | None = None, seed: int | None = None
) -> Iterator[Pictures]:
    """Open a picture, a folder, a video, a stream or a camera; see :func:`predict`."""
    if (images is None) == (camera is None):
        raise UsageError("one of IMAGES and --camera is needed", hint="a picture, a folder, a video, or --camera 0")
    text = str(images)
    if camera is not None:
        with video.opened_camera(camera) as footage:
            yield _moving(f"camera{camera}", footage, limit)
    elif video.is_stream(text) or (Path(text).suffix.lower() in video.EXTENSIONS and Path(text).is_file()):
        with video.opened_video(text) as footage:
            yield _moving("stream" if video.is_stream(text) else Path(text).name, footage, limit)
    else:
        files = _image_files(Path(text))
        files = [files[i] for i in chosen(len(files), limit, seed)]
        yield Pictures(Path(text).name, ((path.name, read_image(path)) for path in files), len(files))


def _moving(name: str, footage: video.Footage, limit: int | None) -> Pictures:
    frames = ((f"{name}#{i}", frame) for i, frame in enumerate(islice(footage.frames, limit)))
    n = min(footage.n_frames, limit or footage.n_frames) or (limit or 0)
    return Pictures(name, frames, n, footage.rate)


def _image_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UsageError(f"no file and no folder '{place}'", hint="check the path")
    files = sorted(p for p in place.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not files:
        raise DataError(f"'{place}' holds no images", hint=f"known endings: {', '.join(sorted(EXTENSIONS))}")
    return files
