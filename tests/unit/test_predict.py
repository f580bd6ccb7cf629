"""predict: pictures, subsets, videos, cameras; thresholds; the report and the table."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from detector_cases import SIZE, onnx_file, places
from PIL import Image

from bitfront import benchmark, cli, evaluate, open_data, predict, screen, video
from bitfront.contracts import Prediction
from bitfront.errors import DataError, DeviceError, UsageError
from bitfront.store import append_row, replacing
from bitfront.tasks.detection import Detection
from bitfront.tasks.segmentation import Segmentation
from bitfront.verbs import predicting
from bitfront.verbs.answering import Laps, times_of, with_thresholds
from bitfront.verbs.scoring import chosen

FOUND = [(20.0, 30.0, 10.0, 20.0, 0.91234, 2), (50.0, 40.0, 8.0, 6.0, 0.5, 0), (30.0, 10.0, 8.0, 6.0, 0.2, 1)]


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(onnx_file(tmp_path / "four.onnx", {"output": places(4, FOUND, 1.0)}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for i in range(8):
        Image.new("RGB", (SIZE, SIZE), (i, 0, 0)).save(place / f"{i}.png")
    return place


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Six frames of 96x130, each brighter than the one before."""
    pytest.importorskip("av", reason="videos need PyAV")
    path = tmp_path / "clip.mp4"
    with video.writer(path, Fraction(5)) as add:
        for i in range(6):
            add(np.full((96, 130, 3), 40 * i, np.uint8))
    return path


def test_detections_are_rounded_and_named(model: str, folder: Path, tmp_path: Path) -> None:
    found = predict(model, folder, limit=3, labels="a,b,c,d", report=tmp_path / "deep" / "r.json")
    report = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert [p["image"] for p in report["predictions"]] == ["0.png", "3.png", "7.png"]
    assert report["predictions"][0]["detections"] == [
        {"label": "c", "score": 0.912, "box": [15.0, 20.0, 25.0, 40.0]},
        {"label": "a", "score": 0.5, "box": [46.0, 37.0, 54.0, 43.0]},
    ]
    assert report == json.loads(json.dumps(found.report))
    assert report["model"]["size_bytes"] == Path(model).stat().st_size
    assert report["runtime"]["name"] == "onnxruntime"
    assert report["input"] == {"height": SIZE, "width": SIZE, "fit": "letterbox"}
    assert report["thresholds"] == {"confidence": 0.25, "iou": 0.45, "max_boxes": 300}
    assert "cpu_flags" in report["system"]
    assert report["box"].startswith("x1 y1 x2 y2 in pixels")
    assert found.folder is None
    assert not found.files


def test_thresholds_decide_what_is_found(model: str, folder: Path) -> None:
    for options, n in (({"confidence": 0.6}, 1), ({"confidence": 0.1}, 3), ({"max_boxes": 2, "confidence": 0.1}, 2)):
        found = predict(model, folder / "0.png", **options)
        assert len(found.report["predictions"][0]["detections"]) == n


def test_a_seed_draws_a_subset(model: str, folder: Path) -> None:
    def names(**options: int) -> list[str]:
        return [p["image"] for p in predict(model, folder, **options).report["predictions"]]

    assert names(limit=4, seed=1) == names(limit=4, seed=1) == sorted(names(limit=4, seed=1))
    assert names(limit=4, seed=1) != names(limit=4, seed=2)
    assert len(names(limit=99, seed=1)) == 8


def test_subsets() -> None:
    assert chosen(10, None) == list(range(10))
    assert chosen(10, 4) == [0, 3, 6, 9]
    assert chosen(0, 3) == []
    drawn = chosen(5000, 500, 7)
    assert len(set(drawn)) == 500
    assert drawn == sorted(drawn)
    assert max(np.diff(drawn)) > 20  # not evenly apart


def test_times_are_of_all_pictures_but_those_that_warm_up(model: str, folder: Path, monkeypatch: object) -> None:
    times = predict(model, folder).times
    assert times is not None
    assert times.n == 8
    parts = (times.preprocess_ms, times.inference_ms, times.postprocess_ms)
    assert all(0 < part.median <= part.p90 for part in parts)
    assert times.fps == pytest.approx(1000 / sum(part.mean for part in parts))
    assert times.inference_fps > times.fps


def test_times_by_hand() -> None:
    times = times_of([Laps(0.001, 0.01, 0.002), Laps(0.003, 0.02, 0.004)])
    assert times is not None
    assert (times.preprocess_ms.mean, times.inference_ms.median) == (pytest.approx(2), pytest.approx(15))
    assert times.inference_ms.p90 == pytest.approx(19)
    assert times.fps == pytest.approx(1000 / (2 + 15 + 3))
    assert times.inference_fps == pytest.approx(1000 / 15)
    assert times_of([]) is None


def test_pictures_are_drawn(model: str, folder: Path, tmp_path: Path) -> None:
    found = predict(model, folder, tmp_path / "drawn", limit=2)
    assert [path.name for path in found.files] == ["0_png.jpg", "7_png.jpg"]
    with Image.open(found.files[0]) as picture:
        assert np.asarray(picture).max() > 100  # a frame on black


def test_save_needs_no_folder(model: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(model, folder / "0.png", save=True).files == (Path("predictions/0_png.jpg"),)


# --- videos ----------------------------------------------------------------------------------------------------------
def test_a_video_is_read_and_drawn(model: str, clip: Path, tmp_path: Path) -> None:
    found = predict(model, clip, tmp_path / "o", limit=4)
    assert [p["image"] for p in found.report["predictions"]] == [f"clip.mp4#{i}" for i in range(4)]
    (path,) = found.files
    assert path.name == "clip_mp4.mp4"
    with video.opened_video(str(path)) as footage:
        frames = list(footage.frames)
        assert footage.rate == 5
    assert len(frames) == 4
    assert all(f.shape[:2] == (192, 260) for f in frames)  # small pictures are enlarged to be written on
    means = [f.mean() for f in frames]
    assert means == sorted(means)


def test_a_stream_has_an_address(model: str, clip: Path) -> None:
    found = predict(model, f"file://{clip}")
    assert found.report["images"] == "stream"
    assert len(found.report["predictions"]) == 6


def test_frames_come_back(clip: Path) -> None:
    with video.opened_video(str(clip)) as footage:
        assert footage.n_frames == 6
        means = [float(frame.mean()) for frame in footage.frames]
    np.testing.assert_allclose(means, [0, 40, 80, 120, 160, 200], atol=3)


def test_odd_sides_lose_a_row(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need PyAV")
    with video.writer(tmp_path / "odd.mp4", Fraction(25)) as add:
        add(np.zeros((65, 67, 3), np.uint8))
    with video.opened_video(str(tmp_path / "odd.mp4")) as footage:
        assert next(footage.frames).shape == (64, 66, 3)


def test_what_is_no_video_says_so(model: str, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need PyAV")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4.*Invalid data"):
        predict(model, tmp_path / "text.mp4")
    with pytest.raises(DataError, match="No such file"):
        predict(model, f"file://{tmp_path}/missing.mp4")
    with pytest.raises(UsageError, match="no file and no folder"):
        predict(model, tmp_path / "missing.mp4")


def stopped(write: Callable[[object], object], what: object) -> None:
    write(what)
    raise ValueError("stopped")


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need PyAV")
    with pytest.raises(ValueError, match="stopped"), video.writer(tmp_path / "v.mp4", Fraction(5)) as add:
        stopped(add, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match="no frame"), video.writer(tmp_path / "v.mp4", Fraction(5)):
        pass
    assert not list(tmp_path.iterdir())


def test_without_pyav_it_is_said(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(DeviceError, match="videos need PyAV"):
        predict(model, tmp_path / "a.mp4")


def test_no_camera_and_no_display(model: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="no camera 987"):
        predict(model, camera=987)
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(DeviceError, match="no window can be shown"):
        predict(model, folder, show=True)
    with pytest.raises(UsageError, match="one of IMAGES and --camera"):
        predict(model, folder, camera=0)


class Shown:
    """A window that is closed after two pictures."""

    def __init__(self, title: str) -> None:
        self.n = 0

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, image: np.ndarray, *, wait: bool) -> bool:
        assert wait
        self.n += 1
        return self.n < 2


def test_closing_the_window_ends_it(model: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "Window", Shown)
    found = predict(model, folder, show=True)
    assert len(found.report["predictions"]) == 2
    assert "stopped after 2 pictures" in found.notes


def test_a_camera_ends_from_the_keyboard(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Iterator[np.ndarray]:
        yield from [np.zeros((SIZE, SIZE, 3), np.uint8)] * 3
        raise KeyboardInterrupt

    class Camera:
        def __enter__(self) -> video.Footage:
            return video.Footage(endless(), Fraction(30))

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(video, "opened_camera", lambda number: Camera())
    found = predict(model, camera=0)
    assert [p["image"] for p in found.report["predictions"]] == ["camera0#0", "camera0#1", "camera0#2"]
    assert "stopped after 3 pictures" in found.notes


def test_a_window_wants_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(DeviceError, match="no window can be shown"):
        screen.Window("t")


class FakeTk(ModuleType):
    """What a window takes of tkinter: one that a key is pressed in at every third update, and that has no screen."""

    TclError = RuntimeError

    def __init__(self) -> None:
        super().__init__("tkinter")
        self.shown: list[object] = []
        self.calls: dict[str, Callable[..., object]] = {}
        self.updates = 0

    def Tk(self) -> FakeTk:
        return self

    def Label(self, root: object) -> FakeTk:
        return self

    def bind(self, event: str, call: Callable[..., object]) -> None:
        self.calls[event] = call

    def protocol(self, name: str, call: Callable[..., object]) -> None:
        self.calls[name] = call

    def configure(self, image: object) -> None:
        self.shown.append(image)

    def update(self) -> None:
        self.updates += 1
        if self.updates % 3 == 0:
            self.calls["<Key>"](None)

    def winfo_screenwidth(self) -> int:
        return 100

    def winfo_screenheight(self) -> int:
        return 100

    def title(self, text: str) -> None: ...

    def pack(self) -> None: ...

    def destroy(self) -> None: ...


def test_a_window_shows_waits_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    tk, painter = FakeTk(), ModuleType("PIL.ImageTk")
    painter.PhotoImage = lambda picture: picture.size  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tkinter", tk)
    monkeypatch.setitem(sys.modules, "PIL.ImageTk", painter)
    monkeypatch.setattr("PIL.ImageTk", painter, raising=False)
    with screen.Window("t") as window:
        assert window.show(np.zeros((50, 200, 3), np.uint8))
        assert tk.updates == 1
        assert window.show(np.zeros((20, 10, 3), np.uint8), wait=True)
        assert tk.updates == 3
        tk.calls["WM_DELETE_WINDOW"]()
        assert not window.show(np.zeros((20, 10, 3), np.uint8), wait=True)
    assert tk.shown == [(90, 23), (10, 20)]


# --- tables ----------------------------------------------------------------------------------------------------------
def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_sessions_are_lines_of_one_table(model: str, folder: Path, tmp_path: Path) -> None:
    for limit in (1, 2):
        predict(model, folder, limit=limit, csv=tmp_path / "t.csv")
    rows = table(tmp_path / "t.csv")
    assert [row["n_images"] for row in rows] == ["1", "2"]
    assert [row["n_detections"] for row in rows] == ["2", "4"]
    assert float(rows[0]["size_mib"]) == pytest.approx(Path(model).stat().st_size / 2**20, abs=1e-3)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="has other columns"):
        predict(model, folder, limit=1, csv=tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"


def test_lines_are_added_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: append_row(path, {"i": i, "text": 'a,"b"', "none": None}), range(24)))
    rows = table(path)
    assert sorted(int(row["i"]) for row in rows) == list(range(24))
    assert {(row["text"], row["none"]) for row in rows} == {('a,"b"', "")}


def test_a_file_is_replaced_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="stopped"), replacing(path) as file:
        stopped(file.write, b"half")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]


def test_thresholds_belong_to_detection() -> None:
    task = with_thresholds(Detection(), {"iou": 0.3, "confidence": None}, {"confidence": 0.25, "multi_label": False})
    assert isinstance(task, Detection)
    assert (task.iou, task.confidence, task.multi_label) == (0.3, 0.25, False)
    with pytest.raises(UsageError, match="--max-boxes is for detection, and this is segmentation"):
        with_thresholds(Segmentation(), {"max_boxes": 3})
    with pytest.raises(UsageError, match="--iou: 2 does not lie between 0 and 1"):
        with_thresholds(Detection(), {"iou": 2})
    assert with_thresholds(Segmentation(), {"iou": None}, {"iou": 0.45}) == Segmentation()


def test_other_answers_as_data() -> None:
    from bitfront.contracts import DataInfo
    from bitfront.verbs.run_report import answer_of

    info = DataInfo("d", ("rest", "a", "b"), background=0)
    mask = np.array([[0, 0], [0, 2]], np.uint8)
    assert answer_of("m", Prediction(mask=mask), info) == {"image": "m", "shares": {"rest": 0.75, "b": 0.25}}
    assert answer_of("c", Prediction(label=1), info) == {"image": "c", "label": "a"}
    boxes, labels, scores = np.ones((1, 4), np.float32), np.array([0]), np.array([0.5], np.float32)
    found = answer_of("d", Prediction(boxes=boxes, labels=labels, scores=scores), info)
    assert found["detections"] == [{"label": "a", "score": 0.5, "box": [1.0] * 4}]


def test_the_command(model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["predict", model, str(folder), "--labels", "a,b,c,d", "--limit", "2", "--seed", "0"])
    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("2 pictures: 2 c, 2 a")
    assert "of inference alone" in out
    assert cli.main(["predict", model, str(folder), "--limit", "1", "--iou", ".3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["thresholds"]["iou"] == 0.3
    assert answer["predictions"][0]["image"] == "0.png"


# --- scoring and timing ----------------------------------------------------------------------------------------------
def test_scoring_a_random_subset(tmp_path: Path) -> None:
    """The same boxes for every picture: which pictures are scored shows in the score."""
    n = len(open_data("conveyor").info.objects)
    path = str(onnx_file(tmp_path / "m.onnx", {"output": places(n, FOUND[1:2], 1.0)}))
    found = {seed: evaluate(path, "conveyor", part="val", limit=3, seed=seed) for seed in (None, 1, 2)}
    assert len({tuple(one.metrics.per_sample) for one in found.values()}) == 3
    assert all(one.metrics.n == 3 for one in found.values())
    assert {"map50", "map", "precision", "recall"} <= set(found[1].metrics.values)
    with pytest.raises(UsageError, match="DATA names the classes"):
        evaluate(path, "conveyor", labels="a,b")


def test_scoring_writes_the_same_report_and_table(tmp_path: Path) -> None:
    n = len(open_data("conveyor").info.objects)
    path = str(onnx_file(tmp_path / "m.onnx", {"output": places(n, FOUND[1:2], 1.0)}))
    plain = evaluate(path, "conveyor", part="val", limit=3, confidence=0.1)
    told = evaluate(
        path, "conveyor", part="val", limit=3, confidence=0.1, report=tmp_path / "r.json", csv=tmp_path / "t.csv"
    )
    assert told.metrics.values == plain.metrics.values
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["scores"] == {k: pytest.approx(v) for k, v in plain.metrics.values.items()}
    assert report["images"] == "conveyor:val"
    assert [len(p["detections"]) for p in report["predictions"]] == [1, 1, 1]
    (row,) = table(tmp_path / "t.csv")
    assert float(row["map50"]) == pytest.approx(plain.metrics.values["map50"])
    assert float(row["fps"]) > 0
    predict(path, folder_of(tmp_path), limit=1, csv=tmp_path / "t.csv")  # the same columns, without scores
    assert table(tmp_path / "t.csv")[1]["map50"] == ""


def folder_of(place: Path) -> Path:
    Image.new("RGB", (SIZE, SIZE)).save(place / "a.png")
    return place / "a.png"


def test_parts_of_detectors_are_timed(model: str, folder: Path) -> None:
    (timed,) = benchmark([model], seconds=0.05, images=folder)
    assert timed.parts is not None
    assert timed.parts.n == 8
    assert timed.parts.inference_ms.median > 0
    assert timed.parts.fps < timed.parts.inference_fps


def test_the_commands_show_parts_and_subsets(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", model, "--time", "0.05s", "--images", str(folder)]) == 0
    assert "postprocessing ms" in capsys.readouterr().out
    assert cli.main(["evaluate", model, "conveyor", "--seed", "1", "--confidence", "2"]) == 2
    assert "is not a number between 0 and 1" in capsys.readouterr().err
