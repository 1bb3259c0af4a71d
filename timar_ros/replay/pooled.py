"""All conversations as one: frames are joined and counts added, over clips and seeds, before anything is divided.

A minute says little of how a person usually holds the head, and has a handful of cues, so figures of single minutes
are not the same as these when averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from timar_ros.motion.track import MotionTrack
from timar_ros.replay.behaviour_metrics import agreement, best_offset, shapes_correlation
from timar_ros.replay.published_metrics import correlation, published_metrics

POOLED = ("fd", "paired_fd", "mse", "rpcc")


def pooled_motion(
    predicted: Sequence[MotionTrack], truths: Sequence[MotionTrack], others: Sequence[MotionTrack | None]
) -> dict[str, Any]:
    """The published metrics but SID, and the mouth's correlations with the truth, over the frames of all conversations.

    `lips` as of `behaviour_metrics.lips`; the offset is one for all.

    The three go in step; those of another kind than the first are left out.
    """
    kind = predicted[0].kind, truths[0].kind
    threes = [each for each in zip(predicted, truths, others, strict=True) if (each[0].kind, each[1].kind) == kind]
    lengths = [min(len(track) for track in three if track is not None) for three in threes]
    known = all(three[2] is not None and three[2].kind == threes[0][2].kind for three in threes)
    joined = [_joined(tracks, lengths) for tracks in tuple(zip(*threes, strict=True))[: 2 + known]]
    figures = published_metrics(*joined, with_sid=False)
    ours, true = ([three[k].cut(n) for three, n in zip(threes, lengths, strict=True)] for k in (0, 1))
    best, lag = best_offset([track.mouth() for track in ours], [track.mouth() for track in true])
    moved = None
    if lag is not None:
        late, early = max(lag, 0), max(-lag, 0)
        moved = shapes_correlation(_joined(ours, lengths, late, early), _joined(true, lengths, early, late))
    lips = {
        "same_instant": correlation(joined[0].mouth(), joined[1].mouth()),
        "shapes": shapes_correlation(joined[0], joined[1]),
        "correlation": best,
        "offset_ms": None if lag is None else 40 * lag,
        "shapes_at_offset": moved,
    }
    return {name: figures[name] for name in POOLED} | {"lips": lips}


def pooled_cues(counts: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Precision, recall and F1 of the sums of what `cue_answers` counted."""
    return agreement(*(sum(each[name] for each in counts) for name in ("offered", "answers", "on_cue")))


def _joined(tracks: Sequence[MotionTrack], lengths: Sequence[int], first: int = 0, left: int = 0) -> MotionTrack:
    """One after the other, of each the frames from `first` to before the last `left`."""
    values = [track.values[first : length - left] for track, length in zip(tracks, lengths, strict=True)]
    return MotionTrack(np.concatenate(values), tracks[0].kind)
