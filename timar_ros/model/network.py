"""TIMAR in our own size: two parties' speech and motion in one causal network, for conversations without end.

Each 40 ms frame is four tokens, interleaved as in TIMAR (arXiv 2512.15340): partner's speech, partner's motion,
own speech, own motion. Attention is causal by turns: a token sees its own turn, both directions, and the
`window_frames` frames before that turn's start. Own motion that is still to be drawn is masked; the output at a
masked token is the condition z of the diffusion head.

Where it differs from the published network, and why:
- Positions are rotary (Su et al. 2021) over the frame number, so only distances count: keys and values of a closed
  turn stay valid however long the conversation, and the cache is exact. Published positions count from the window's
  start and make every cached key wrong when the window slides.
- Separator tokens give way to an embedding of the frame's place in its turn, so every frame costs four tokens and
  the cache is a ring.
- A motion token starts from its party's speech of that frame, too. Left to attention alone, a network of this size
  needs hundreds of steps of training before it finds the voice at all.
- What is drawn is how a channel differs from what its last given value alone would predict (`motion_kept` of it is
  still there after so many frames), in units of how far that prediction usually is off (`motion_step`); the masked
  token is told that motion and how it moved. Drawn as a whole, a frame must find its neighbours' place to a hundredth
  of the range again each time, and shakes by what it misses.
- A listener's nods are decided and then carried out: the network reads off each frame whether a nod is about to begin,
  and once one has begun it is told the place in it, and a nod's usual course (`nod_course`) is a part of what its
  motion alone would predict. Without that it must feel its way into each nod anew at every hop, and a network that is
  trained not to trust the past of its own motion seldom gets there.
- Of its own motion the network is shown the channels in `own_shown`. The mouth's past is left out, for it is in the
  voice: shown it, the network goes on with the lips it drew itself instead of listening.
- Speech is heard by a small causal encoder (model/speech_encoder.py) instead of wav2vec 2.0, whose 315 M parameters see
  whole seconds. Like that it is frozen while the rest learns; beside it the log-mel frames are seen as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from timar_ros.model.config import NetworkConfig
from timar_ros.model.diffusion import DiffusionHead
from timar_ros.model.features import FEATURES_PER_FRAME
from timar_ros.model.speech_encoder import SpeechEncoder
from timar_ros.model.transformer import Block, run_blocks

TOKENS_PER_FRAME = 4
PARTNER_SPEECH, PARTNER_MOTION, OWN_SPEECH, OWN_MOTION = range(TOKENS_PER_FRAME)
# A nod is at its end, or goes on by itself, after 1.6 s: up to three cycles at 1.5 to 2.4 Hz.
NOD_FRAMES = 40


@dataclass
class FrameInputs:
    """What the network is given of a run of frames. Every field is a tensor over [batch, frames].

    Attributes:
        own_speech, partner_speech: [B, T, network.heard_width] of the speech encoder.
        own_heard, partner_heard: [B, T] bool; where False, the network is told that the voice is not known.
        own_motion: [B, T, motion_dim] in normalised units; counts only where own_given.
        own_given: [B, T] bool; False marks motion that is masked.
        basis: [B, T, 2 motion_dim] of masked frames: the last own motion given before it in normalised units, and its
            change over the frame before, in units of motion_step[1]; zeros where none is given.
        lag: [B, T] int, how many frames after its basis a masked frame lies; 0 where it has none.
        partner_motion: [B, T, motion_dim] in normalised units; counts only where partner_seen.
        partner_seen: [B, T] bool.
        turn_place: [B, T] int, the frame's place in its turn from 0.
        nod_place: [B, T] int, the frame's place in the own nod from 1 to NOD_FRAMES, 0 outside of nods.
        lookahead: [B, T] int, by how many frames own_speech runs ahead of the frame.
    """

    own_speech: Tensor
    partner_speech: Tensor
    own_heard: Tensor
    partner_heard: Tensor
    own_motion: Tensor
    own_given: Tensor
    basis: Tensor
    lag: Tensor
    partner_motion: Tensor
    partner_seen: Tensor
    turn_place: Tensor
    nod_place: Tensor
    lookahead: Tensor


class TimarNetwork(nn.Module):
    """The backbone, the token encoders and the diffusion head."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width

        def encoder(inputs: int, hidden: int = width) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, width))

        self.speech_encoder = SpeechEncoder(config.speech_width)
        self.speech_projection = nn.Linear(config.speech_width, width)
        self.spectrum_encoder = encoder(FEATURES_PER_FRAME, 2 * width)
        self.motion_encoder = encoder(config.motion_dim)
        self.basis_encoder = encoder(2 * config.motion_dim)
        self.kind_embedding = nn.Parameter(0.02 * torch.randn(TOKENS_PER_FRAME, width))
        self.turn_place_embedding = nn.Parameter(0.02 * torch.randn(config.max_turn_frames, width))
        if config.max_lookahead_frames:
            self.lookahead_embedding = nn.Parameter(0.02 * torch.randn(config.max_lookahead_frames + 1, width))
        self.unheard_token = nn.Parameter(0.02 * torch.randn(2, width))  # own, partner
        self.unseen_token = nn.Parameter(0.02 * torch.randn(width))
        self.nod_embedding = nn.Parameter(0.02 * torch.randn(NOD_FRAMES + 1, width))
        self.nod_readout = nn.Linear(width, 1)
        self.lag_embedding = nn.Parameter(0.02 * torch.randn(config.max_turn_frames + 1, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.diffusion = DiffusionHead(config.motion_dim, width, config.diffusion_width, config.diffusion_depth)
        self.register_buffer("motion_mean", torch.zeros(config.motion_dim))
        self.register_buffer("motion_scale", torch.ones(config.motion_dim))
        self.register_buffer("partner_mean", torch.zeros(config.motion_dim))
        self.register_buffer("partner_scale", torch.ones(config.motion_dim))
        lags = config.max_turn_frames + 1  # 0: nothing is given to start from
        self.register_buffer("motion_kept", torch.zeros(lags, config.motion_dim))
        self.register_buffer("motion_step", torch.ones(lags, config.motion_dim))
        self.register_buffer("nod_course", torch.zeros(NOD_FRAMES + 1, config.motion_dim))
        self.register_buffer("own_shown", torch.ones(config.motion_dim))
        half = width // config.heads // 2
        # Periods from about 6 frames (a quarter of a second) to beyond the window; float64 keeps hours exact.
        self.frequencies = 1000.0 ** (-np.arange(half, dtype=np.float64) / half)

    @property
    def heard_width(self) -> int:
        """Numbers in a frame of speech as the speech encoder tells it."""
        return FEATURES_PER_FRAME + self.config.speech_width

    @property
    def reducible(self) -> list[nn.Module]:
        """What may be computed in a reduced precision (model/precision.py)."""
        return [self.blocks]

    def rotation(self, frame: np.ndarray) -> np.ndarray:
        """What `transformer.rotate` turns the tokens of the frames [B, T] by: [B, T, 2, head_width] float32."""
        angle = frame[..., None] * self.frequencies
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos, cos, -sin, sin], axis=-2).astype(np.float32).reshape(*frame.shape, 2, -1)

    def tokens(self, inputs: FrameInputs) -> Tensor:
        """Frames [B, T] as tokens [B, 4 T, width]."""
        return self.in_turn(self.frame_tokens(inputs), inputs.turn_place)

    def frame_tokens(self, inputs: FrameInputs) -> Tensor:
        """Frames [B, T] as tokens [B, T, 4, width] that do not know their place in the turn."""
        own_unheard, partner_unheard = self.unheard_token
        motion = self.motion_encoder(torch.stack([inputs.partner_motion, inputs.own_motion * self.own_shown]))
        speech = torch.stack([inputs.partner_speech, inputs.own_speech])
        spectra, heard = speech.tensor_split([FEATURES_PER_FRAME], dim=-1)
        speech = self.spectrum_encoder(spectra) + self.speech_projection(heard)
        partner_speech = torch.where(inputs.partner_heard[..., None], speech[0], partner_unheard.to(speech.dtype))
        own_speech = torch.where(inputs.own_heard[..., None], speech[1], own_unheard.to(speech.dtype))
        partner_motion = torch.where(inputs.partner_seen[..., None], motion[0], self.unseen_token.to(motion.dtype))
        masked = self.basis_encoder(inputs.basis * torch.cat([self.own_shown] * 2)) + embedding(
            inputs.lag, self.lag_embedding
        )
        own_motion = torch.where(inputs.own_given[..., None], motion[1], masked.to(motion.dtype))
        own_motion = own_motion + embedding(inputs.nod_place, self.nod_embedding).to(motion.dtype)
        if self.config.max_lookahead_frames:
            own_speech = own_speech + embedding(inputs.lookahead, self.lookahead_embedding)
        kinds = [partner_speech, partner_motion + partner_speech, own_speech, own_motion + own_speech]
        return torch.stack(kinds, dim=2) + self.kind_embedding

    def given_motion_token(self, motion: Tensor, own_speech_token: Tensor, nod_place: Tensor) -> Tensor:
        """What takes the place of a masked own-motion token [..., width] once the motion [..., motion_dim] is given.

        Args:
            motion: in normalised units. own_speech_token: [..., width] of the same frame, from `frame_tokens`.
            nod_place: [...] of the frame, as in `FrameInputs`.
        """
        kind = self.kind_embedding[OWN_MOTION] - self.kind_embedding[OWN_SPEECH]
        own_motion = self.motion_encoder(motion * self.own_shown) + embedding(nod_place, self.nod_embedding)
        return own_motion + own_speech_token + kind

    def in_turn(self, tokens: Tensor, turn_place: Tensor) -> Tensor:
        """Tokens of frames [B, T, 4, width] at their places in the turn [B, T] -> [B, 4 T, width]."""
        return (tokens + embedding(turn_place, self.turn_place_embedding)[:, :, None]).flatten(1, 2)

    def encode(self, inputs: FrameInputs, frame: np.ndarray, mask: Tensor | None = None, **attention) -> Tensor:
        """z [B, T, width], the conditions of the diffusion head, for the frames [B, T] in one pass.

        Args:
            frame: [B, T] each frame's number in the conversation.
            mask: bool, broadcastable to [B, heads, 4 T, 4 T]; None lets every token see all.
            attention: as in `run`.
        """
        rotation = torch.from_numpy(self.rotation(frame)).to(inputs.own_speech.device)
        return self.conditions(inputs, rotation, mask=mask, **attention)

    def conditions(self, inputs: FrameInputs, rotation: Tensor, **attention) -> Tensor:
        """z as of `encode`, of frames with the rotation [B, T, 2, head_width]."""
        return self.run(self.tokens(inputs), rotation, **attention)[:, OWN_MOTION::TOKENS_PER_FRAME]

    def run(self, tokens: Tensor, rotation: Tensor, **attention) -> Tensor:
        """The backbone over the tokens [B, 4 T, width] of frames with the rotation [B, T, 2, head_width].

        `mask`, `cache`, `at`, `rows` and `attend` are those of model/transformer.py.
        """
        rotation = rotation.to(self.blocks[0].dtype).repeat_interleave(TOKENS_PER_FRAME, dim=1)
        return self.norm(run_blocks(self.blocks, tokens, rotation=rotation, **attention))

    def nod_ahead(self, z: Tensor) -> Tensor:
        """How surely a nod is about to begin, from z [..., width]: [...] logits."""
        return self.nod_readout(z)[..., 0]

    def normalise(self, motion: Tensor) -> Tensor:
        """Motion in its own units (rad, blendshape weights) -> units of the network."""
        return (motion - self.motion_mean) / self.motion_scale

    def normalise_partner(self, motion: Tensor) -> Tensor:
        """The partner's motion as `normalise`, in units that stay when a policy is settled; 0 where the network has
        never seen a channel move."""
        return (motion - self.partner_mean) / self.partner_scale

    def denormalise(self, motion: Tensor) -> Tensor:
        return motion * self.motion_scale + self.motion_mean

    def to_change(self, motion: Tensor, basis: Tensor, lag: Tensor, nod_place: Tensor) -> Tensor:
        """Motion [..., motion_dim] in normalised units -> what the diffusion head draws of it."""
        return (motion - self._expected(basis, lag, nod_place)) / self.motion_step[lag]

    def from_change(self, change: Tensor, basis: Tensor, lag: Tensor, nod_place: Tensor) -> Tensor:
        """The inverse of `to_change`."""
        return self._expected(basis, lag, nod_place) + change * self.motion_step[lag]

    def _expected(self, basis: Tensor, lag: Tensor, nod_place: Tensor) -> Tensor:
        """What the last given motion and the usual course of a nod lead to."""
        begun = nod_place > 0
        nodded = self.nod_course[nod_place] - self.nod_course[torch.where(begun, (nod_place - lag).clamp(min=0), 0)]
        return self.motion_kept[lag] * basis[..., : self.config.motion_dim] + nodded
