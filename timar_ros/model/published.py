"""The published TIMAR network (arXiv 2512.15340), turn by turn, with the keys and values of past turns kept.

A turn is a second: 25 frames, 110 tokens in the order below. Its tokens see all of its own and of earlier turns, so
what a turn was encoded to stays right as long as the window's first turn does; positions count from the window's
start. Parameter names are the published ones, but for the perceptrons inside the blocks (model/transformer.py)
and the diffusion head's prefix.

Tokens of a turn: 0:<turn> 1:<user speech> .. 2: 3:<user motion> .. 4: 5:<agent speech> .. 6: 7:<agent motion> .. 8:
9:</turn>, where .. are the 25 frames' tokens and each number is a separator.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from timar_ros.errors import TimarError
from timar_ros.model.diffusion import DiffusionHead
from timar_ros.model.transformer import Block, run_blocks
from timar_ros.model.wav2vec2 import SpeechConfig, SpeechEncoder

FRAMES = 25
SAMPLES = 16_000
MOTION_DIM = 56
SEPARATORS = 10
TOKENS = 4 * FRAMES + SEPARATORS
# Two separators stand before each of the four runs of frames, and two at the end of the turn.
AGENT_MOTION = slice(TOKENS - 2 - FRAMES, TOKENS - 2)


@dataclass(frozen=True)
class PublishedConfig:
    """Sizes of a published network; the defaults are `large`.

    Attributes:
        token_width: of the tokens before `z_proj`.
        motion_hidden: between the two layers of the motion encoder.
        width, blocks, heads: of the backbone.
        diffusion_width, diffusion_depth: of the diffusion head.
        window_turns: turns in a full window, the present one with them.
        kept_turns: past turns that are encoded anew, as the window's first ones, when the window is full.
            window_turns - 1 is the published sliding window; fewer means less work and, in the mean, less memory.
        mask_history: hide the agent's motion of past turns, as in the published evaluation.
        sampling_steps: diffusion steps at a draw.
        speech: of the speech encoder.
    """

    token_width: int = 1024
    motion_hidden: int = 512
    width: int = 1024
    blocks: int = 32
    heads: int = 16
    diffusion_width: int = 1024
    diffusion_depth: int = 3
    window_turns: int = 8
    kept_turns: int = 1
    mask_history: bool = True
    sampling_steps: int = 5
    speech: SpeechConfig = field(default_factory=SpeechConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.kept_turns < self.window_turns:
            raise TimarError(
                f"config.yaml: network.kept_turns is {self.kept_turns}; 0 to window_turns - 1 "
                f"({self.window_turns - 1}) are allowed"
            )
        for name in ("token_width", "motion_hidden", "width", "blocks", "heads", "diffusion_width", "diffusion_depth"):
            if getattr(self, name) < 1:
                raise TimarError(f"config.yaml: network.{name} is {getattr(self, name)}; at least 1 is needed")
        if self.width % self.heads:
            raise TimarError(f"config.yaml: network.width {self.width} must be a multiple of heads {self.heads}")

    @classmethod
    def from_dict(cls, values: Any) -> PublishedConfig:
        """Build from the `network` section of config.yaml; every key must be known and present."""
        known = _checked(values, cls, "network")
        return cls(**known | {"speech": SpeechConfig(**_checked(known["speech"], SpeechConfig, "network.speech"))})

    @property
    def motion_dim(self) -> int:
        return MOTION_DIM

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _checked(values: Any, cls: type, section: str) -> dict[str, Any]:
    known = {f.name: dict if f.name == "speech" else type(f.default) for f in fields(cls)}
    if not isinstance(values, dict) or known.keys() != values.keys():
        found = sorted(values) if isinstance(values, dict) else values
        raise TimarError(f"config.yaml: section '{section}' must have the keys {sorted(known)}; it has {found}")
    for name, kind in known.items():
        if type(values[name]) is not kind or (kind is int and values[name] < 0):
            raise TimarError(f"config.yaml: {section}.{name} is {values[name]!r}; a {kind.__name__} is expected")
    return values


class PublishedNetwork(nn.Module):
    """The published backbone, token encoders, speech encoder and diffusion head."""

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        self.config = config
        width, token_width = config.width, config.token_width
        self.speech_encoder = SpeechEncoder(config.speech)
        self.speech_projection = nn.Linear(config.speech.width, token_width)
        self.motion_encoder = nn.Sequential(
            nn.Linear(MOTION_DIM, config.motion_hidden),
            nn.ReLU(),
            nn.Linear(config.motion_hidden, token_width),
            nn.ReLU(),
        )
        self.sep_tok_emb = nn.Embedding(SEPARATORS, token_width)
        self.fake_latent = nn.Parameter(torch.zeros(1, token_width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = config.window_turns * TOKENS
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.z_proj = nn.Linear(token_width, width)
        self.z_proj_ln = nn.LayerNorm(width, eps=1e-6)
        self.encoder_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.blocks))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.diffusion = DiffusionHead(MOTION_DIM, width, config.diffusion_width, config.diffusion_depth)

    @property
    def reducible(self) -> list[nn.Module]:
        """What may be computed in a reduced precision (model/precision.py)."""
        return [self.encoder_blocks, self.speech_encoder]

    def speech_tokens(self, voices: Tensor) -> Tensor:
        """[B, 16000] seconds of voices, zero mean and unit variance -> [B, 25, token_width]."""
        return self.speech_projection(self.speech_encoder(voices, FRAMES))

    def turn(
        self,
        user_speech: Tensor,
        user_motion: Tensor,
        agent_speech: Tensor,
        agent_motion: Tensor,
        user_heard: Tensor,
        user_seen: Tensor,
        agent_given: Tensor,
    ) -> Tensor:
        """One turn as [110, width], before positions.

        Args:
            user_speech, agent_speech: [25, token_width], from `speech_tokens`.
            user_motion, agent_motion: [25, 56] FLAME: 50 expression, 3 jaw, 3 neck (axis-angle, rad).
            user_heard, user_seen: [25] bool; where False the fake latent stands for the user's speech or motion.
            agent_given: [25] bool; where False the agent's motion is masked.
        """
        runs = (
            torch.where(user_heard[:, None], user_speech, self.fake_latent),
            torch.where(user_seen[:, None], self.motion_encoder(user_motion), self.fake_latent),
            agent_speech,
            self.motion_encoder(agent_motion),
        )
        separators, parts = self.sep_tok_emb.weight, []
        for i, run in enumerate(runs):
            parts += [separators[2 * i : 2 * i + 2], run]
        x = self.z_proj(torch.cat([*parts, separators[8:]]))
        x[AGENT_MOTION] = torch.where(agent_given[:, None], x[AGENT_MOTION], self.mask_token[0])
        return x

    def give_motion(self, turn: Tensor, motion: Tensor) -> Tensor:
        """A turn [110, width] with the agent's motion [25, 56] in the place of its mask."""
        given = self.z_proj(self.motion_encoder(motion))
        return torch.cat([turn[: AGENT_MOTION.start], given, turn[AGENT_MOTION.stop :]])

    def hide_user(self, turn: Tensor) -> Tensor:
        """A turn [110, width] without its user, for guidance."""
        hidden = self.z_proj(self.fake_latent).expand(FRAMES, -1)
        return torch.cat([turn[:2], hidden, turn[2 + FRAMES : 4 + FRAMES], hidden, turn[4 + 2 * FRAMES :]])

    def encode(self, turns: Tensor, place: int, cache: Tensor) -> Tensor:
        """z [25, width] of the last of the turns [n, 110, width], the first of which is the window's turn `place`.

        Args:
            cache: [blocks, 2, 1, heads, window_turns * 110, head_width]; holds the turns before `place`, and after
                this the new ones, too.
        """
        count = len(turns)
        positions = slice(place * TOKENS, (place + count) * TOKENS)
        x = self.z_proj_ln(turns.flatten(0, 1)[None] + self.encoder_pos_embed_learned[:, positions])
        mask = None
        if count > 1:
            turn = torch.arange(positions.stop, device=x.device) // TOKENS
            mask = (turn[None] <= turn[positions, None])[None, None]
        rows = torch.arange((count - 1) * TOKENS + AGENT_MOTION.start, count * TOKENS - 2, device=x.device)[None]
        x = run_blocks(self.encoder_blocks, x, cache=cache, at=positions.start, mask=mask, rows=rows)
        return (self.encoder_norm(x) + self.diffusion_pos_embed_learned[:, positions.start + rows[0]])[0]
