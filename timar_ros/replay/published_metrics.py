"""The metrics of the published comparison (TIMAR, arXiv 2512.15340, after DualTalk), one clip at a time.

Each compares predicted with true motion, for expression, jaw and pose apart; raw values, not scaled for a table.
None stands where a metric is not defined: too few frames, a motionless signal, or the other party's motion unknown.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from timar_ros.motion.track import GROUPS, MotionTrack

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

CLUSTERS = {"exp": 40, "jaw": 10, "pose": 10}
PUBLISHED = ("fd", "paired_fd", "mse", "sid", "rpcc")


def published_metrics(
    predicted: MotionTrack, truth: MotionTrack, other: MotionTrack | None = None, with_sid: bool = True
) -> dict[str, dict[str, float | None]]:
    """`{metric: {group: value}}` of `PUBLISHED` and `GROUPS`.

    Frames beyond the shortest of the tracks are left out. A group that the tracks do not have in common is None.

    Args:
        other: the other party's true motion; without it `paired_fd` and `rpcc` are None.
        with_sid: leave it out where there are many frames, since it clusters them.
    """
    frames = min(len(track) for track in (predicted, truth, other) if track is not None)
    result: dict[str, dict[str, float | None]] = {metric: dict.fromkeys(GROUPS) for metric in PUBLISHED}
    for group in GROUPS:
        if not predicted.comparable(truth, group):
            continue
        a, b = predicted.group(group)[:frames], truth.group(group)[:frames]
        result["fd"][group] = frechet_distance(a, b)
        result["mse"][group] = mean_squared_error(a, b)
        if with_sid:
            result["sid"][group] = shannon_diversity(a, b, CLUSTERS[group])
        if other is not None and truth.comparable(other, group):
            c = other.group(group)[:frames]
            result["paired_fd"][group] = frechet_distance(np.hstack([a, c]), np.hstack([b, c]))
            result["rpcc"][group] = residual_correlation(a, b, c)
    return result


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """Fréchet distance of the Gaussians fitted to two sets of frames [n, k] and [m, k].

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson & Landau 1982), A and B the unbiased covariances. The trace
    of the root is the sum of the singular values of A^(1/2) B^(1/2), which stays exact where A or B is singular.
    """
    if min(len(a), len(b)) < 2:
        return None
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    roots, trace = [], 0.0
    for frames in (a, b):
        covariance = np.atleast_2d(np.cov(frames, rowvar=False))
        values, vectors = np.linalg.eigh(covariance)
        roots.append(vectors * np.sqrt(values.clip(0.0)) @ vectors.T)
        trace += float(np.trace(covariance))
    shared = float(np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum())
    distance = float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum()) + trace - 2.0 * shared
    return _finite(max(distance, 0.0))


def mean_squared_error(a: np.ndarray, b: np.ndarray) -> float | None:
    """Mean over frames and channels of the squared difference."""
    return _finite(np.square(np.asarray(a, np.float64) - b).mean()) if len(a) else None


def shannon_diversity(predicted: np.ndarray, truth: np.ndarray, clusters: int) -> float | None:
    """SID: the entropy, in bits, of the predicted frames over k-means clusters of the true ones.

    -sum p log2(p + 1e-6); scikit-learn's k-means with `n_init="auto"` and seed 0 (Learning to Listen, Ng et al. 2022).
    """
    if len(truth) < clusters or len(np.unique(truth, axis=0)) < clusters:
        return None
    fitted = _clusters(truth.tobytes(), truth.dtype.str, truth.shape, clusters)
    labels = fitted.predict(np.asarray(predicted, truth.dtype))
    share = np.bincount(labels, minlength=clusters) / len(labels)
    return _finite(-(share * np.log2(share + 1e-6)).sum())


@lru_cache(maxsize=2 * len(GROUPS))
def _clusters(frames: bytes, dtype: str, shape: tuple[int, ...], clusters: int) -> KMeans:
    """Remembered, since one truth is held against many predictions."""
    from sklearn.cluster import KMeans  # a tenth of what a process takes to start, and only needed with a truth

    truth = np.frombuffer(frames, dtype).reshape(shape)
    return KMeans(n_clusters=clusters, n_init="auto", random_state=0).fit(truth)


def residual_correlation(predicted: np.ndarray, truth: np.ndarray, other: np.ndarray) -> float | None:
    """rPCC: |corr(truth, other party) - corr(prediction, other party)|, Pearson, over flattened arrays."""
    real, drawn = correlation(truth.ravel(), other.ravel()), correlation(predicted.ravel(), other.ravel())
    return None if real is None or drawn is None else abs(real - drawn)


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's correlation of two rows of equal length; None where one does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    a, b = (np.asarray(row, np.float64) - np.mean(row, dtype=np.float64) for row in (a, b))
    return _finite(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
