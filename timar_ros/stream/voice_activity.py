"""Silero's voice activity model under onnxruntime, as a small stateful callable.

The model comes with the `silero-vad` wheel (MIT). Only the file is used: importing the package
itself would import torch and torchaudio.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE

CHUNK_SAMPLES = 512
"""Samples that the model judges at once (32 ms)."""
CONTEXT_SAMPLES = 64
"""Samples before a chunk that the model sees with it."""
SILERO_STATE = 128
"""Units of the model's recurrent layer."""


def silero_model_path() -> Path:
    """The model file in the installed `silero-vad` wheel; TimarError where there is none."""
    spec = importlib.util.find_spec("silero_vad")
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "data" / "silero_vad.onnx"
        if path.is_file():
            return path
    raise TimarError(
        "the voice activity model is missing; expected silero_vad/data/silero_vad.onnx of the "
        "silero-vad wheel; install it with: pip install --no-deps silero-vad==6.2.3"
    )


@lru_cache(maxsize=2)
def _session(path: Path):
    """One session for all streams: it holds weights only, the streams hold their own state."""
    try:
        import onnxruntime
    except ImportError as error:
        raise TimarError(
            "voice activity needs onnxruntime, which is not installed; install it with: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        raise TimarError(
            f"the voice activity model {path} cannot be read ({error}); expected Silero's ONNX "
            "model; install it again with: pip install --no-deps --force-reinstall silero-vad==6.2.3"
        ) from error


class SileroModel:
    """Silero's network with its state, for several streams of chunks side by side."""

    def __init__(self, streams: int = 1) -> None:
        self._session = _session(silero_model_path())
        self._rate = np.array(SAMPLE_RATE, dtype=np.int64)
        self._streams = streams
        self.reset_states()

    def reset_states(self, streams: list[int] | None = None) -> None:
        """Forget everything heard, as if new; of some streams only, if they are given."""
        if streams is not None:
            self._state[:, streams], self._context[streams] = 0.0, 0.0
            return
        self._state = np.zeros((2, self._streams, SILERO_STATE), dtype=np.float32)
        self._context = np.zeros((self._streams, CONTEXT_SAMPLES), dtype=np.float32)

    @property
    def hidden(self) -> np.ndarray:
        """Output of the model's recurrent layer for the last chunks: float32 [streams, 128] in [-1, 1]."""
        return self._state[0]

    def __call__(self, chunks: np.ndarray) -> np.ndarray:
        """Probability of speech [streams] in the next chunks (float32 [streams, 512])."""
        window = np.concatenate([self._context, chunks], axis=1)
        self._context = window[:, -CONTEXT_SAMPLES:]
        probability, self._state = self._session.run(None, {"input": window, "state": self._state, "sr": self._rate})
        return probability[:, 0]


class SileroVoiceActivity:
    """Probability of speech for every 32 ms of one voice, however the samples are cut.

    Call it with the next samples (float32 [n], any n, 16 kHz mono in [-1, 1]); it returns, for
    each chunk of 512 samples completed by them, `(end_sample, probability)`: the count of samples
    from the start (or the last reset) to the chunk's end, and a number in [0, 1].
    Samples that are not finite count as silence, since they would spoil the state for good.
    """

    def __init__(self) -> None:
        self._model = SileroModel()
        self._chunks = Chunks()

    def reset_states(self) -> None:
        """Forget everything heard, as if new."""
        self._model.reset_states()
        self._chunks = Chunks()

    def __call__(self, samples: np.ndarray) -> list[tuple[int, float]]:
        return [(end_sample, float(self._model(chunk[np.newaxis])[0])) for end_sample, chunk in self._chunks(samples)]


class Chunks:
    """Cuts a stream of samples into the model's chunks, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, dtype=np.float32)
        self._end_sample = 0

    def __call__(self, samples: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """`(end_sample, float32 [512])` of each chunk completed; not finite becomes silence."""
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"expected mono samples of shape [n], got shape {samples.shape}")
        if not np.isfinite(samples).all():
            samples = np.where(np.isfinite(samples), samples, np.float32(0.0))
        stream = np.concatenate([self._rest, samples])
        chunks = []
        for start in range(0, len(stream) - CHUNK_SAMPLES + 1, CHUNK_SAMPLES):
            self._end_sample += CHUNK_SAMPLES
            chunks.append((self._end_sample, stream[start : start + CHUNK_SAMPLES]))
        self._rest = stream[len(chunks) * CHUNK_SAMPLES :].copy()
        return chunks
