"""The diffusion head: draws the motion of one frame given the backbone's condition z.

Schedule, network and sampling follow TIMAR (arXiv 2512.15340), which takes them from improved diffusion
(Nichol & Dhariwal 2021, arXiv 2102.09672) and MAR (Li et al. 2024, arXiv 2406.11838): cosine schedule of
1000 steps, x0 prediction, learned variance. Frames are independent of each other given z; what ties them
together in time is the noise that the caller passes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

TRAIN_STEPS = 1000
SINUSOID_WIDTH = 256


@dataclass(frozen=True)
class Schedule:
    """Constants of a diffusion process over `steps` kept steps, each a float64 tensor [steps].

    `original_step` is the number (0 to 999) that the network is given for each kept step.
    """

    original_step: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    posterior_x0: Tensor
    posterior_xt: Tensor
    posterior_log_variance: Tensor
    log_beta: Tensor

    def __len__(self) -> int:
        return len(self.original_step)

    @cached_property
    def constants(self) -> list[list[Tensor]]:
        """Of each kept step: the weights of x0 and x_t in the mean, and the log deviation's middle and half range.

        Float32 scalars on the CPU, which every device takes; a Python number would be made one in each operation.
        """
        low, high = self.posterior_log_variance / 2, self.log_beta / 2
        rows = [self.posterior_x0, self.posterior_xt, (low + high) / 2, (high - low) / 2]
        return [list(step.unbind()) for step in torch.stack(rows, dim=1).float()]


def cosine_alpha_bar() -> Tensor:
    """Cumulative signal power [1000] of the cosine schedule, beta capped at 0.999."""

    def signal(t: Tensor) -> Tensor:
        return torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()

    time = torch.arange(TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS
    beta = (1 - signal(time[1:]) / signal(time[:-1])).clamp(max=0.999)
    return torch.cumprod(1 - beta, dim=0)


def make_schedule(steps: int = TRAIN_STEPS) -> Schedule:
    """The full process, or one respaced to `steps` >= 2 steps from step 0 to step 999."""
    if not 2 <= steps <= TRAIN_STEPS:
        raise ValueError(f"steps is {steps}; between 2 and {TRAIN_STEPS} is possible")
    kept = torch.tensor([round(i * (TRAIN_STEPS - 1) / (steps - 1)) for i in range(steps)])
    alpha_bar = cosine_alpha_bar()[kept]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    beta = 1 - alpha_bar / previous
    posterior_variance = beta * (1 - previous) / (1 - alpha_bar)
    return Schedule(
        original_step=kept,
        sqrt_alpha_bar=alpha_bar.sqrt(),
        sqrt_one_minus_alpha_bar=(1 - alpha_bar).sqrt(),
        posterior_x0=beta * previous.sqrt() / (1 - alpha_bar),
        posterior_xt=(1 - previous) * (1 - beta).sqrt() / (1 - alpha_bar),
        # The first variance is 0; its logarithm is replaced by the second's.
        posterior_log_variance=torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log(),
        log_beta=beta.log(),
    )


class TimestepEmbedder(nn.Module):
    """Sinusoids of the step number (cosines first), then Linear, SiLU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, step: Tensor) -> Tensor:
        """step [n] -> [n, width]."""
        half = SINUSOID_WIDTH // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=step.device) / half)
        angle = step.float()[:, None] * frequencies
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))


class ResidualBlock(nn.Module):
    """An MLP whose normalised input is shifted and scaled, and whose output is gated, by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def modulation(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What SiLU of the condition [..., width] does: scale and shift of the normalised input, gate of the output."""
        shift, scale, gate = self.adaLN_modulation[1](y).chunk(3, dim=-1)
        return 1 + scale, shift, gate

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor, gate: Tensor) -> Tensor:
        # Functions instead of modules: with few rows, calling those takes as long as what they compute.
        first, _, last = self.mlp
        normalised = torch.layer_norm(x, x.shape[-1:], self.in_ln.weight, self.in_ln.bias, self.in_ln.eps)
        hidden = silu(linear(torch.addcmul(shift, scale, normalised), first.weight, first.bias))
        return torch.addcmul(x, gate, linear(hidden, last.weight, last.bias))


class FinalLayer(nn.Module):
    """LayerNorm without weights, shifted and scaled by the condition, then Linear."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """What SiLU of the condition [..., width] does: scale and shift of the normalised input."""
        shift, scale = self.adaLN_modulation[1](y).chunk(2, dim=-1)
        return 1 + scale, shift

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return self.linear(torch.addcmul(shift, scale, self.norm_final(x)))


class DiffusionHead(nn.Module):
    """Denoises one frame's `motion_dim` numbers given z [n, condition_dim]."""

    def __init__(self, motion_dim: int, condition_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.time_embed = TimestepEmbedder(width)
        self.cond_embed = nn.Linear(condition_dim, width)
        self.input_proj = nn.Linear(motion_dim, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * motion_dim)

    def forward(self, x_t: Tensor, step: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """x_t [n, motion_dim], original step numbers [n], z -> (x0, variance interpolation), each [n, motion_dim]."""
        return self.denoise(x_t, self.modulations(self.time_embed(step) + self.cond_embed(z)))

    def modulations(self, y: Tensor) -> list[tuple[Tensor, ...]]:
        """What the condition y [..., width] does to each block and to the final layer."""
        y = silu(y)
        return [layer.modulation(y) for layer in (*self.res_blocks, self.final_layer)]

    def denoise(self, x_t: Tensor, modulations: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        """x_t [n, motion_dim] -> (x0, variance interpolation), each [n, motion_dim]."""
        x = self.input_proj(x_t)
        for block, modulation in zip(self.res_blocks, modulations, strict=False):
            x = block(x, *modulation)
        x0, variance = self.final_layer(x, *modulations[-1]).chunk(2, dim=-1)
        return x0, variance

    def zero_gates(self) -> None:
        """Start training from the identity: gates and the output begin at zero (adaLN-zero, Peebles & Xie 2023)."""
        for layer in [block.adaLN_modulation[-1] for block in self.res_blocks] + [
            self.final_layer.adaLN_modulation[-1],
            self.final_layer.linear,
        ]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def sample(
    head: DiffusionHead,
    schedule: Schedule,
    z: Tensor,
    noise: Tensor,
    temperature: float | Tensor = 1.0,
    z_unconditional: Tensor | None = None,
    guidance: float = 1.0,
    mean: Tensor | None = None,
    posterior: bool = False,
    time: Tensor | None = None,
) -> Tensor:
    """Draw motion for each condition.

    Args:
        z: [n, condition_dim].
        noise: [steps, n, motion_dim] standard normal in the order drawn: x_T first, then one a step. No noise is
            added at the last step, so `steps` arrays suffice (a further one is ignored).
        temperature: scales the noise of the steps, not x_T (TIMAR); 0 draws each step's mean. A number, or
            [motion_dim].
        mean: [motion_dim] bool, which numbers are not drawn: they are what the first step expects, the mean of all that
            could be drawn, for x_T tells nothing. (Steps without noise lead to a draw too, that of x_T.)
        posterior: take the schedule's own variance and not the learned one, which is for its full number of steps.
        z_unconditional: [n, condition_dim] of the pass without the partner, for guidance != 1.
        time: `head.time_embed(schedule.original_step)` on the device, which who draws often computes once.

    Returns:
        [n, motion_dim] in the units that the head was trained on.
    """
    x, noise = noise[0], noise * temperature
    if time is None:
        time = head.time_embed(schedule.original_step.to(z.device))
    modulations = _all_steps(head, time, z)
    unguided = _all_steps(head, time, z_unconditional) if guidance != 1.0 else None
    for draw, i in enumerate(reversed(range(len(schedule))), start=1):
        x0, variance = head.denoise(x, modulations[i])
        if unguided is not None:
            x0_unconditional, _ = head.denoise(x, unguided[i])
            x0 = x0_unconditional + guidance * (x0 - x0_unconditional)
        if draw == 1:
            expected = x0
        weight_x0, weight_xt, middle, half_range = schedule.constants[i]
        x = weight_xt * x + weight_x0 * x0
        if i == 0:
            return x if mean is None else torch.where(mean, expected, x)
        fraction = -1.0 if posterior else variance
        # The deviation, a number on the CPU where it is not learned, stands where CUDA takes one.
        x = torch.addcmul(x, noise[draw], torch.exp(half_range * fraction + middle))
    raise AssertionError("a schedule has at least two steps")


def _all_steps(head: DiffusionHead, time: Tensor, z: Tensor) -> list[tuple[tuple[Tensor, ...], ...]]:
    """Modulations of each kept step, for all steps in one pass: they do not depend on x_t."""
    layers = head.modulations(time[:, None] + head.cond_embed(z))
    by_step = [zip(*(part.unbind(0) for part in layer), strict=True) for layer in layers]
    return list(zip(*by_step, strict=True))


def training_terms(
    head: DiffusionHead, schedule: Schedule, x0: Tensor, z: Tensor, step: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared error of x0 and the variational term for the variance (in bits), each [n, motion_dim].

    Args:
        x0: [n, motion_dim] true motion. step: [n] in 0..999 of the full schedule. noise: like x0.
    """

    def at(constants: Tensor) -> Tensor:
        return constants.to(x0.device)[step].to(x0.dtype)[:, None]

    x_t = at(schedule.sqrt_alpha_bar) * x0 + at(schedule.sqrt_one_minus_alpha_bar) * noise
    predicted, variance = head(x_t, step, z)
    low, high = at(schedule.posterior_log_variance), at(schedule.log_beta)
    log_variance = (variance + 1) / 2 * (high - low) + low
    # The variational term trains the variance alone: the mean is trained by the squared error.
    mean_gap = at(schedule.posterior_x0) * (x0 - predicted.detach())
    divergence = 0.5 * (
        log_variance - low + torch.exp(low - log_variance) + mean_gap.square() * torch.exp(-log_variance) - 1
    )
    return (predicted - x0).square(), divergence / math.log(2)
