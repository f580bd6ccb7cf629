"""Segmentation: the loss, the read-out and the scores, against hand-made cases and two other libraries."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.contracts import IGNORE, Batch, DataInfo, Metrics, OutputContract, Prediction, Sample
from bitfront.errors import DataError, UsageError
from bitfront.tasks.segmentation import Segmentation, median_frequency

BINARY = DataInfo("boxes", ("background", "box"), background=0)
SCENES = DataInfo("scenes", ("sky", "road", "car", "pole"))
OBJECTS = DataInfo("objects", ("background", "cat", "dog"), background=0)


def sample(mask: object, id: str = "a.png") -> Sample:
    mask = np.asarray(mask, np.uint8)
    return Sample(id, np.zeros((*mask.shape, 3), np.uint8), mask)


def score(info: DataInfo, pairs: list, score: str = "", task: Segmentation | None = None):
    meter = (task or Segmentation()).meter(info, score)
    for i, (truth, guess) in enumerate(pairs):
        meter.add(Prediction(mask=np.asarray(guess, np.uint8)), sample(truth, f"{i}.png"))
    return meter.result()


# --- scores by hand --------------------------------------------------------------------------------------------------
def test_scores_by_hand() -> None:
    """Three of four pixels right; object: 1 of union 2; background: 2 of union 3."""
    m = score(BINARY, [([[0, 0], [1, 1]], [[0, 0], [0, 1]])])
    assert m.score == "foreground_iou"
    assert m.value == m.values["foreground_iou"] == m.values["foreground_iou_image"] == 1 / 2
    assert m.values["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-15)
    assert m.values["pixel_accuracy"] == 3 / 4
    assert m.values["dice"] == pytest.approx((4 / 5 + 2 / 3) / 2, abs=1e-15)
    assert m.per_class["accuracy"] == {"background": 1.0, "box": 0.5}
    assert m.confusion == ((2, 0), (1, 1))
    assert m.per_sample == {"0.png": 0.5}
    assert (m.n, m.interval) == (1, None)


def test_dataset_and_image_means_differ() -> None:
    large = ([[1] * 8], [[1] * 8])
    small = ([[1, 1, 0, 0, 0, 0, 0, 0]], [[1, 0, 0, 0, 0, 0, 0, 0]])
    m = score(BINARY, [large, small])
    assert m.values["foreground_iou"] == 9 / 10
    assert m.values["foreground_iou_image"] == (1 + 1 / 2) / 2


def test_ignored_pixels_count_nowhere() -> None:
    m = score(SCENES, [([[0, IGNORE], [1, IGNORE]], [[0, 3], [1, 2]])])
    assert m.values["miou"] == m.values["pixel_accuracy"] == m.values["dice"] == 1
    assert m.per_class["iou"] == {"sky": 1.0, "road": 1.0, "car": None, "pole": None}
    assert sum(map(sum, m.confusion)) == 2


def test_a_class_only_predicted_is_wrong_not_absent() -> None:
    m = score(SCENES, [([[0, 0]], [[0, 2]])])
    assert m.per_class["iou"] == {"sky": 0.5, "road": None, "car": 0.0, "pole": None}
    assert m.per_class["accuracy"]["car"] is None
    assert m.values["miou"] == 0.25


@pytest.mark.parametrize("pairs", [[], [([[IGNORE, IGNORE]], [[0, 1]])]], ids=["no image", "all ignored"])
def test_nothing_to_count_is_undefined(pairs: list) -> None:
    m = score(BINARY, pairs)
    assert set(m.values.values()) == {None}
    assert (m.value, m.n, m.interval, m.per_sample) == (0.0, len(pairs), None, {})
    assert set(m.per_class["iou"].values()) == {None}


def test_foreground_merges_objects() -> None:
    """A dog called a cat is an object all the same."""
    m = score(OBJECTS, [([[0, 0, 1, 2]], [[0, 2, 1, 1]])], "foreground_iou")
    assert m.value == 2 / 3
    assert score(OBJECTS, [([[0]], [[0]])]).score == "miou"


def test_no_background_no_foreground_scores() -> None:
    assert not any("foreground" in name for name in score(SCENES, [([[0]], [[0]])]).values)
    with pytest.raises(UsageError, match="needs a background"):
        Segmentation().meter(SCENES, "foreground_iou")


def test_images_without_objects_are_left_out_of_the_mean() -> None:
    m = score(BINARY, [([[0, 0]], [[0, 0]]), ([[0, 1]], [[0, 1]])], "foreground_iou_image")
    assert m.value == 1
    assert m.per_sample == {"1.png": 1.0}


@pytest.mark.parametrize("name", Segmentation().meter(BINARY).result().values)
def test_every_score_is_defined_and_can_drive(name: str) -> None:
    m = score(BINARY, [([[0, 1]], [[0, 1]]), ([[1, 1]], [[0, 1]])], name)
    assert m.value == m.values[name] is not None
    assert len(m.definitions[name]) > 40
    low, high = m.interval
    assert low <= m.value <= high


# --- two other libraries ---------------------------------------------------------------------------------------------
def random_case(rng: np.random.Generator) -> tuple[int, np.ndarray, np.ndarray]:
    """Some classes absent, some pixels ignored, predictions better than chance."""
    k = int(rng.integers(2, 9))
    shape = (int(rng.integers(1, 5)), int(rng.integers(2, 12)), int(rng.integers(2, 12)))
    truth = rng.choice(rng.permutation(k)[: rng.integers(1, k + 1)], shape)
    guess = np.where(rng.random(shape) < rng.random(), truth, rng.integers(0, k, shape))
    truth = np.where(rng.random(shape) < rng.choice([0, 0.2]), IGNORE, truth)
    truth[0, 0, 0] = 0
    return k, truth.astype(np.uint8), guess.astype(np.uint8)


def test_scores_equal_scikit_learn_and_torchmetrics(rng: np.random.Generator) -> None:
    from sklearn import metrics as sk
    from torchmetrics.functional import classification as tm

    for _ in range(500):
        k, truth, guess = random_case(rng)
        info = DataInfo("random", tuple(f"class {i}" for i in range(k)), background=0)
        m = score(info, list(zip(truth, guess, strict=True)), task=Segmentation(bootstrap=0))
        t, g = truth[truth != IGNORE], guess[truth != IGNORE]
        present = np.union1d(t, g)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            iou = sk.jaccard_score(t, g, labels=present, average=None)
            _, recall, f1, _ = sk.precision_recall_fscore_support(t, g, labels=present)
            expected = {
                "miou": iou.mean(),
                "pixel_accuracy": sk.accuracy_score(t, g),
                "dice": f1.mean(),
                "foreground_iou": sk.jaccard_score(t > 0, g > 0) if (t > 0).any() or (g > 0).any() else None,
            }
        for name, value in expected.items():
            assert (m.values[name] is None) if value is None else abs(m.values[name] - value) < 1e-9
        for name, values in (("iou", iou), ("dice", f1)):
            assert defined(m, name, info) == pytest.approx(dict(zip(present, values, strict=True)), abs=1e-9)
        shown = {c: r for c, r in zip(present, recall, strict=True) if (t == c).any()}
        assert defined(m, "accuracy", info) == pytest.approx(shown, abs=1e-9)

        # torchmetrics counts exactly and divides in float32: the counts must be equal, the ratios close
        pixels = torch.from_numpy(guess).long(), torch.from_numpy(truth).long()
        assert np.array_equal(m.confusion, tm.multiclass_confusion_matrix(*pixels, k, ignore_index=IGNORE).numpy())
        assert abs(float(tm.multiclass_jaccard_index(*pixels, k, ignore_index=IGNORE)) - m.values["miou"]) < 1e-6


def defined(m: Metrics, name: str, info: DataInfo) -> dict[int, float]:
    """Class index -> value, of those that are not None."""
    return {i: m.per_class[name][c] for i, c in enumerate(info.classes) if m.per_class[name][c] is not None}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.permutations(range(4)))
def test_order_of_images_does_not_matter(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(rng.integers(0, 4, (3, 5)), rng.integers(0, 4, (3, 5))) for _ in range(4)]
    task = Segmentation(bootstrap=0)
    a, b = (score(SCENES, p, task=task) for p in (pairs, [pairs[i] for i in order]))
    assert a.confusion == b.confusion
    assert a.values == pytest.approx(b.values, abs=1e-12)


def test_interval_covers_as_often_as_it_says(rng: np.random.Generator) -> None:
    """Images whose accuracy is p on average: about 95 % of the intervals hold p."""
    hits = 0
    for _ in range(100):
        guess = (rng.random((40, 1, 50)) > 0.3).astype(np.uint8)
        m = score(BINARY, [(np.ones((1, 50)), g) for g in guess], "pixel_accuracy", Segmentation(bootstrap=300))
        hits += m.interval[0] <= 0.7 <= m.interval[1]
    assert 85 <= hits <= 100


def test_interval_is_that_of_the_score(rng: np.random.Generator) -> None:
    """Against a plain bootstrap that scores the drawn images again, and repeatable."""
    pairs = [(rng.integers(0, 4, (4, 4)), rng.integers(0, 4, (4, 4))) for _ in range(6)]
    task = Segmentation(bootstrap=50, seed=3)
    for name in ("miou", "miou_image"):
        m = score(SCENES, pairs, name, task)
        draws = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=50)
        plain = Segmentation(bootstrap=0)
        again = [score(SCENES, [pairs[i] for i in np.repeat(np.arange(6), d)], name, plain).value for d in draws]
        assert m.interval == pytest.approx(np.percentile(again, [2.5, 97.5]), abs=1e-12)
        assert m.interval == score(SCENES, pairs, name, task).interval


def test_memory_does_not_grow_with_the_images() -> None:
    """Only 3 K integers an image are kept."""
    meter = Segmentation().meter(SCENES)
    for i in range(3):
        meter.add(Prediction(mask=np.zeros((200, 300), np.uint8)), sample(np.zeros((200, 300)), str(i)))
    assert sum(c.nbytes for c in meter._counts) == 3 * 3 * 4 * 8


# --- errors ----------------------------------------------------------------------------------------------------------
def test_bad_labels_are_named() -> None:
    with pytest.raises(DataError, match=r"0.png: label holds 7, but there are 4 classes"):
        score(SCENES, [([[7]], [[0]])])
    with pytest.raises(DataError, match=r"0.png: prediction holds 4"):
        score(SCENES, [([[0]], [[4]])])
    with pytest.raises(DataError, match="no label map"):
        Segmentation().meter(SCENES).add(Prediction(mask=np.zeros((1, 1), np.uint8)), Sample("x", np.zeros((1, 1, 3))))
    with pytest.raises(ValueError, match="is not at the label's"):
        score(SCENES, [([[0]], [[0, 0]])])
    with pytest.raises(UsageError, match="unknown score 'iou'"):
        Segmentation().meter(SCENES, "iou")


# --- channels and read-out -------------------------------------------------------------------------------------------
def test_channels_and_readouts_fit() -> None:
    task = Segmentation()
    assert (task.channels(BINARY), task.channels(SCENES), task.channels(OBJECTS)) == (1, 4, 3)
    assert task.channels(dataclasses.replace(BINARY, background=None)) == 2
    assert task.output(1, BINARY).readout == "threshold"
    assert task.output(2, BINARY).readout == "argmax"
    for channels, info in ((3, BINARY), (1, SCENES), (1, DataInfo("one", ("a",)))):
        with pytest.raises(UsageError, match="does not fit"):
            task.output(channels, info)


def test_predictions_are_read_and_resized_by_nearest() -> None:
    logits = np.zeros((2, 3, 2, 2), np.float32)
    logits[0, 1, 0] = 1  # upper half class 1; ties elsewhere: the lowest index
    logits[1, 2, :, 1] = 1
    a, b = Segmentation().predict(logits, OutputContract("argmax"), [(4, 2), (3, 5)])
    assert a.mask.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert b.mask.tolist() == [[0, 0, 2, 2, 2]] * 3  # the centre of the third of five pixels lies on the border
    assert a.mask.dtype == np.uint8
    binary = np.array([[[[-1.0, 0.0, 1e-6, 3.0]]]])
    (c,) = Segmentation().predict(binary, OutputContract("threshold", 0.0), [(1, 4)])
    assert c.mask.tolist() == [[0, 0, 1, 1]]
    (d,) = Segmentation().predict(np.array([[[2, 1]]]), OutputContract("labels"), [(1, 2)])
    assert d.mask.tolist() == [[2, 1]]
    with pytest.raises(UsageError, match="unknown read-out"):
        Segmentation().predict(binary, OutputContract("boxes"), [(1, 4)])


# --- loss ------------------------------------------------------------------------------------------------------------
def batch(masks: object) -> Batch:
    masks = np.asarray(masks, np.uint8)
    return Batch(np.zeros((len(masks), 3, *masks.shape[1:]), np.float32), masks)


def test_loss_is_cross_entropy_without_the_ignored(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(2, 4, 3, 5))).float()
    masks = rng.integers(0, 4, (2, 3, 5))
    masks[0, 1] = IGNORE
    weights = (0.5, 2.0, 1.0, 3.0)
    ours = Segmentation(class_weights=weights).loss(logits, batch(masks), SCENES)
    theirs = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(masks), weight=torch.tensor(weights), ignore_index=IGNORE
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_binary_loss_is_that_of_two_logits(rng: np.random.Generator) -> None:
    """A logit x against 0 is the pair (0, x)."""
    x = torch.from_numpy(rng.normal(size=(2, 1, 3, 5))).float()
    masks = rng.choice([0, 1, IGNORE], (2, 3, 5))
    one = Segmentation(class_weights=(1.0, 4.0)).loss(x, batch(masks), BINARY)
    two = Segmentation(class_weights=(1.0, 4.0)).loss(torch.cat([x * 0, x], 1), batch(masks), BINARY)
    assert float(one) == pytest.approx(float(two), rel=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_a_batch_of_ignored_pixels_gives_zero_and_finite_gradients(channels: int, dice: float) -> None:
    logits = torch.zeros(1, channels, 2, 2, requires_grad=True)
    loss = Segmentation(dice=dice).loss(logits, batch(np.full((1, 2, 2), IGNORE)), BINARY)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("channels", [1, 2])
def test_dice_term(channels: int) -> None:
    """0 for a sure and right answer; 1 - 2 p / (p + 1 ...) by hand for an unsure one; ignored pixels have no part."""
    masks = np.array([[[0, 1, IGNORE]]])
    sure = torch.tensor([-50.0, 50.0, 50.0]).reshape(1, 1, 1, 3)
    sure = sure if channels == 1 else torch.cat([-sure, sure], 1)
    only = [float(Segmentation(dice=d).loss(sure, batch(masks), BINARY)) for d in (0.0, 1.0)]
    assert only[1] - only[0] == pytest.approx(0, abs=1e-6)
    unsure = torch.zeros(1, channels, 1, 3)  # p = 1/2: each class 2 * 1/2 / (1 + 1)
    only = [float(Segmentation(dice=d).loss(unsure, batch(masks), BINARY)) for d in (0.0, 1.0)]
    assert only[1] - only[0] == pytest.approx(1 / 2, abs=1e-6)


def test_loss_wants_masks_and_fitting_weights() -> None:
    logits = torch.zeros(1, 4, 1, 1)
    with pytest.raises(UsageError, match="has none"):
        Segmentation().loss(logits, Batch(np.zeros((1, 3, 1, 1), np.float32)), SCENES)
    with pytest.raises(UsageError, match="2 class weights do not fit the 4 classes"):
        Segmentation(class_weights=(1.0, 2.0)).loss(logits, batch([[[0]]]), SCENES)


def test_median_frequency_by_hand() -> None:
    """Sky fills 6 of the 8 labelled pixels of its two images, road 2 of 5, car 1 of 4; no image shows a pole."""
    part = [sample([[0, 0, 1, 2]]), sample([[0, 0, 0, 0]]), sample([[1, IGNORE]])]
    frequency = np.array([6 / 8, 2 / 5, 1 / 4])
    assert median_frequency(part, SCENES) == pytest.approx([*np.median(frequency) / frequency, 0.0])
    assert median_frequency([], SCENES) == (1.0,) * 4


# --- pictures --------------------------------------------------------------------------------------------------------
def test_drawing_leaves_the_background_and_tints_the_object() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    mask = np.zeros((120, 160), np.uint8)
    mask[60:, 80:] = 1
    drawn = Segmentation().draw(image, Prediction(mask=mask), BINARY)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn[:50, 100:] == 90).all()
    assert (drawn[70:, 90:] != 90).any(axis=-1).all()
