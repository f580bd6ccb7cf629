"""Moving pictures through PyAV (FFmpeg): files, streams and cameras read frame by frame, files written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError, DeviceError, one_line
from bitfront.store import replacing

__all__ = ["EXTENSIONS", "Footage", "is_stream", "opened_camera", "opened_video", "writer"]

EXTENSIONS = frozenset({".mov", ".avi", ".mp4", ".mpg", ".mpeg", ".m4v", ".wmv", ".mkv", ".webm"})
"""File endings of videos (lower case)."""
USUAL_RATE = Fraction(25)
"""Frames a second where a stream does not say."""
CODECS = (("libx264", {"crf": "20"}), ("mpeg4", {"qscale": "3"}))
"""Encoders in order of preference, with their quality."""
TO_WRITE = "w"


@dataclass(frozen=True, slots=True)
class Footage:
    """An opened video."""

    frames: Iterator[NDArray[np.uint8]]
    """uint8 ``(h, w, 3)`` RGB, turned as the file says."""
    rate: Fraction
    """Frames a second."""
    n_frames: int = 0
    """0 where nobody knows."""


def is_stream(text: str) -> bool:
    """Whether a text is the address of a stream: ``rtsp://...``, ``rtmp://...``, ``https://...``."""
    return "://" in text


@contextlib.contextmanager
def opened_video(place: str) -> Iterator[Footage]:
    """Open a video file or the address of a stream.

    Raises DeviceError without PyAV, DataError for what cannot be opened or decoded.
    """
    with _opened(place, f"'{place}'") as footage:
        yield footage


@contextlib.contextmanager
def opened_camera(number: int) -> Iterator[Footage]:
    """Open a camera of this computer (Video4Linux). Raises DeviceError without PyAV and without that camera."""
    device = Path(f"/dev/video{number}")
    if not device.exists():
        there = sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video[0-9]*"))
        hint = f"there is --camera {', '.join(there)}" if there else "this computer has none; give a video file"
        raise DeviceError(f"no camera {number}: there is no {device}", hint=hint)
    try:
        with _opened(str(device), f"camera {number}", "v4l2") as footage:
            yield footage
    except DataError as error:
        raise DeviceError(str(error), hint="is it in use, and may you read it?") from error


@contextlib.contextmanager
def writer(path: Path, rate: Fraction) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Give a function that adds a frame, uint8 ``(h, w, 3)``, to a new MP4 file, H.264 or else MPEG-4.

    All frames are as large as the first. The file is there when all went well. Raises DeviceError without PyAV,
    DataError, SpaceError, UsageError.
    """
    av = _engine()
    with replacing(path) as file, _errors(av, str(path)):
        container = av.open(file, mode=TO_WRITE, format="mp4")
        stream: Any = None

        def add(image: NDArray[np.uint8]) -> None:
            nonlocal stream
            with _errors(av, str(path)):
                if stream is None:
                    stream = _stream(av, container, rate, image)
                whole = np.ascontiguousarray(image[: stream.height, : stream.width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(whole, format="rgb24")))

        try:
            yield add
            if stream is None:
                raise DataError(f"no frame for {path}", hint="is the video empty?")
            container.mux(stream.encode())
        finally:
            container.close()


def _stream(av: Any, container: Any, rate: Fraction, image: NDArray[np.uint8]) -> Any:
    name, options = next(((n, o) for n, o in CODECS if n in av.codecs_available), CODECS[-1])
    stream = container.add_stream(name, rate=rate, options=options)
    stream.height, stream.width = (side // 2 * 2 for side in image.shape[:2])  # 4:2:0 has even sides
    stream.pix_fmt = "yuv420p"
    return stream


@contextlib.contextmanager
def _opened(place: str, name: str, format_: str | None = None) -> Iterator[Footage]:
    av = _engine()
    with _errors(av, name):
        container = av.open(place, format=format_)
    with container:
        if not container.streams.video:
            raise DataError(f"{name} holds no video", hint=f"videos are {', '.join(sorted(EXTENSIONS))} files")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield Footage(_frames(av, container, stream, name), stream.average_rate or USUAL_RATE, stream.frames)


def _frames(av: Any, container: Any, stream: Any, name: str) -> Iterator[NDArray[np.uint8]]:
    with _errors(av, name):
        for frame in container.decode(stream):
            image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield np.ascontiguousarray(np.rot90(image, turns)) if turns else image


@contextlib.contextmanager
def _errors(av: Any, name: str) -> Iterator[None]:
    """Turn FFmpeg's errors into DataError."""
    try:
        yield
    except av.FFmpegError as error:
        reason = one_line(str(error.strerror or error))
        raise DataError(f"{name}: {reason}", hint="is it a video, and whole? `ffprobe` says more") from error


def _engine() -> Any:
    """Return the module ``av``. Raises DeviceError when it is not installed."""
    try:
        import av
    except ImportError as error:
        raise DeviceError("videos need PyAV, which is not installed", hint="pip install 'bitfront[video]'") from error
    return av
