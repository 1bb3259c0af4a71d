"""What is heard of one voice, frame by frame, from its beginning on.

TIMAR hears through wav2vec 2.0: learned before the rest, frozen, 315 M parameters that see whole seconds. In its place
stands a small causal convolutional network over log-mel frames. It too is learned before and then frozen: it was taught
to tell the shapes of the mouth that speaks (learn/speech_teaching.py), for which it has to know the sounds of speech
apart. A network that learns everything at once, from the error of motion, seldom gets so far.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from timar_ros.model.features import MEL_BANDS, SPECTRA_PER_FRAME

# How many frames apart a layer's three taps lie; together they hear 1.3 s.
DILATIONS = (1, 1, 2, 4, 8)
HEARD_BEFORE_FRAMES = 2 * sum(DILATIONS)
OWN_SPECTRA = SPECTRA_PER_FRAME * MEL_BANDS


class DilatedLayer(nn.Module):
    """A residual layer over three frames, the last of them the newest (WaveNet, van den Oord et al. 2016)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(3 * width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """x [V, T, width] and what is kept of the frames before, [V, 2 dilation, width] -> the same."""
        frames = x.shape[1]
        heard = torch.cat([before, self.norm(x)], dim=1)
        taps = [heard[:, k * self.dilation : k * self.dilation + frames] for k in range(3)]
        return x + self.out(nn.functional.gelu(self.mix(torch.cat(taps, dim=-1)))), heard[:, frames:]


class SpeechEncoder(nn.Module):
    """Hears voices frame by frame; what it keeps of the frames before is carried from call to call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frame = nn.Sequential(nn.Linear(OWN_SPECTRA, width), nn.GELU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(DilatedLayer(width, dilation) for dilation in DILATIONS)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, kept: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Hear the next frames of V voices.

        Args:
            features: [V, frames, FEATURES_PER_FRAME] of model/features.py, of which the frames' own spectra are taken.
            kept: from the call before; None at a voice's beginning.

        Returns:
            [V, frames, FEATURES_PER_FRAME + width], the features and behind them what is heard; and what is kept.
        """
        x = self.frame(features[..., :OWN_SPECTRA])
        kept = kept or [x.new_zeros(len(x), 2 * layer.dilation, x.shape[-1]) for layer in self.layers]
        after = []
        for layer, before in zip(self.layers, kept, strict=True):
            x, newest = layer(x, before)
            after.append(newest)
        return torch.cat([features, self.norm(x)], dim=-1), after
