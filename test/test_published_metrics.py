"""The published metrics equal what numpy, scipy and scikit-learn make of their definitions."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import pearsonr
from sklearn.cluster import KMeans

from timar_ros.motion.track import FLAME, GROUPS, MotionTrack
from timar_ros.replay.published_metrics import frechet_distance, published_metrics

SLICES = {"exp": slice(0, 50), "jaw": slice(50, 53), "pose": slice(53, 56)}
CLUSTERS = {"exp": 40, "jaw": 10, "pose": 10}


def smooth_motion(seed: int, frames: int = 500) -> np.ndarray:
    """[frames, 56] numbers that are correlated over time and over channels, as motion is."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=(frames, 56)), axis=0) * 0.05
    return walk @ (np.eye(56) + 0.2 * rng.normal(size=(56, 56))) + rng.normal(size=56)


TRUTH, PREDICTED, OTHER = (smooth_motion(seed) for seed in (1, 2, 3))


def independent(predicted, truth, other, group):
    """The five metrics, straight from their definitions."""
    a, b, c = (motion[:, SLICES[group]] for motion in (predicted, truth, other))

    def frechet(x, y):
        root = sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False))
        spread = np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * root.real)
        return np.sum((x.mean(0) - y.mean(0)) ** 2) + spread

    def entropy(k):
        clusters = KMeans(n_clusters=k, n_init="auto", random_state=0).fit(b)
        histogram = np.bincount(clusters.predict(a), minlength=k) / len(a)
        return -np.sum(histogram * np.log2(histogram + 1e-6))

    return {
        "fd": frechet(a, b),
        "paired_fd": frechet(np.hstack([a, c]), np.hstack([b, c])),
        "mse": np.mean((a - b) ** 2),
        "sid": entropy(CLUSTERS[group]),
        "rpcc": abs(pearsonr(b.ravel(), c.ravel())[0] - pearsonr(a.ravel(), c.ravel())[0]),
    }


@pytest.fixture(scope="module")
def figures():
    return published_metrics(*(MotionTrack(motion, FLAME) for motion in (PREDICTED, TRUTH, OTHER)))


@pytest.mark.parametrize("group", GROUPS)
def test_they_equal_an_independent_computation(figures, group):
    for metric, value in independent(PREDICTED, TRUTH, OTHER, group).items():
        assert figures[metric][group] == pytest.approx(value, abs=1e-6, rel=1e-6), metric


def test_motion_that_is_the_truth_has_no_distance():
    same = MotionTrack(TRUTH, FLAME)
    figures = published_metrics(same, same, MotionTrack(OTHER, FLAME))
    for metric in ("fd", "paired_fd", "mse", "rpcc"):
        assert all(abs(figures[metric][group]) < 1e-9 for group in GROUPS), metric


def test_distance_stays_exact_where_a_channel_stands_still():
    """A singular covariance, where a matrix square root is not to be trusted."""
    a, b = TRUTH[:, 50:53].copy(), PREDICTED[:, 50:53].copy()
    a[:, 2] = b[:, 2] = 0.25
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a[:, :2], b[:, :2]), abs=1e-9)


def test_what_is_not_defined_is_none():
    truth, predicted = MotionTrack(TRUTH, FLAME), MotionTrack(PREDICTED, FLAME)
    alone = published_metrics(predicted, truth)
    assert set(alone["paired_fd"].values()) == set(alone["rpcc"].values()) == {None}
    short = published_metrics(predicted.cut(30), truth)
    assert short["sid"]["exp"] is None and short["sid"]["pose"] is not None  # 40 clusters of 30 frames
    still = published_metrics(MotionTrack(np.zeros((100, 56)), FLAME), truth, MotionTrack(OTHER, FLAME))
    assert still["rpcc"]["exp"] is None and still["fd"]["exp"] > 0


def test_arkit_and_flame_share_the_pose_alone():
    from timar_ros.motion.flame import neck_from_rpy

    arkit = np.zeros((500, 55))
    arkit[:, :3] = 0.1 * PREDICTED[:, :3]
    figures = published_metrics(MotionTrack(arkit), MotionTrack(TRUTH, FLAME))
    neck = neck_from_rpy(arkit[:, :3])
    assert figures["mse"]["pose"] == pytest.approx(np.mean((neck - TRUTH[:, 53:]) ** 2))
    assert figures["fd"]["exp"] is None and figures["fd"]["jaw"] is None
