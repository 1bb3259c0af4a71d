"""The published `large` size with random weights, turn by turn on the CPU: the whole window each turn, as the published
code computes it, beside cached turns, in each precision.

Both encode only the new second of both voices and draw 25 frames; the cached side includes closing turns and its share
of encoding anew when the window slides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from timar_ros.bench.timing import noise_frames, timed, write_result
from timar_ros.model import diffusion
from timar_ros.model.checkpoint import Policy
from timar_ros.model.precision import BFLOAT16, FLOAT32, INT8, set_precision
from timar_ros.model.published import FRAMES, MOTION_DIM, SAMPLES, TOKENS, PublishedConfig, PublishedNetwork
from timar_ros.model.transformer import run_blocks
from timar_ros.motion.flame import FLAME_CHANNELS
from timar_ros.stream.published_policy import PublishedPolicy

SUSTAINED_TURNS = 60
CPU = torch.device("cpu")


def random_network(config: PublishedConfig | None = None) -> PublishedNetwork:
    """The same weights each time."""
    with torch.device("meta"):
        network = PublishedNetwork(config or PublishedConfig())
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "norm" in name or name.endswith("_ln.weight"):
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.normal_(0.0, 0.02, generator=generator)
    return network


@torch.inference_mode()
def recompute_turn(network: PublishedNetwork) -> torch.Tensor:
    """One turn as the published code computes it: all turns of a full window, every token through every block."""
    turns = network.config.window_turns
    user, agent = network.speech_tokens(torch.randn(2, SAMPLES))
    yes, no = torch.ones(FRAMES, dtype=torch.bool), torch.zeros(FRAMES, dtype=torch.bool)
    motion = torch.randn(2, FRAMES, MOTION_DIM)
    turn = network.turn(user, motion[0], agent, motion[1], yes, yes, no)
    x = network.z_proj_ln(turn.expand(turns, -1, -1).flatten(0, 1)[None] + network.encoder_pos_embed_learned)
    number = torch.arange(turns * TOKENS) // TOKENS
    x = run_blocks(network.encoder_blocks, x, mask=(number[None] <= number[:, None])[None, None])
    z = network.encoder_norm(x) + network.diffusion_pos_embed_learned
    schedule = diffusion.make_schedule(network.config.sampling_steps)
    noise = torch.randn(len(schedule), FRAMES, MOTION_DIM)
    return diffusion.sample(network.diffusion, schedule, z[0, -FRAMES - 2 : -2], noise)


def play(stepper: PublishedPolicy, turns: int, between: Callable[[int], None] = lambda turn: None) -> list[float]:
    """Seconds of each turn, closing and sliding with it; `between` is called before each."""
    taken = []
    for turn in range(turns):
        between(turn)
        frames = noise_frames(turn * FRAMES, FRAMES)

        def one(frames=frames) -> None:
            stepper.step(frames, [])
            stepper.settle()

        taken.append(timed(one))
    return taken


def measure() -> dict[str, object]:
    exact = random_network()
    config = exact.config
    cycle = config.window_turns - config.kept_turns
    recompute_turn(exact)
    recompute, cached, z, sustained = {}, {}, {}, {}
    for precision in (FLOAT32, BFLOAT16, INT8):
        network = exact if precision == FLOAT32 else random_network()
        set_precision(network, precision, CPU)
        stepper = PublishedPolicy(Policy("large", network, FLAME_CHANNELS, {}), "cpu", precision=precision)
        whole: list[float] = []

        def recompute_now_and_then(turn: int, whole: list[float] = whole) -> None:
            # Beside the cached turns in time, since the machine is not equally fast all the time.
            if turn >= config.window_turns and turn % 2 == 0:
                whole.append(timed(lambda: recompute_turn(exact)))

        # From a full window on: a whole number of slides, each with the turns that it makes room for.
        taken = play(stepper, config.window_turns + 2 * cycle, recompute_now_and_then)[config.window_turns :]
        cached[precision], recompute[precision] = float(np.mean(taken)), float(np.mean(whole))
        z[precision] = stepper._window.z.float().numpy().copy()
        if precision != FLOAT32:
            stepper.reset()
            sustained[precision] = float(np.mean(play(stepper, SUSTAINED_TURNS)))
    fastest = min(cached, key=cached.get)
    return {
        "million_parameters": round(sum(p.numel() for p in exact.parameters()) / 1e6, 1),
        "recompute_s_per_turn": round(float(np.mean(list(recompute.values()))), 3),
        "cached_s_per_turn": {precision: round(seconds, 3) for precision, seconds in cached.items()},
        "recompute_over_cached": {p: round(recompute[p] / cached[p], 2) for p in cached},
        "relative_error_of_z": {p: round(float(_distance(z[p], z[FLOAT32])), 4) for p in (BFLOAT16, INT8)},
        "fastest": fastest,
        "realtime_factor": round(sustained[fastest], 3),
        "kept_turns": config.kept_turns,
        "threads": torch.get_num_threads(),
    }


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


if __name__ == "__main__":
    write_result({"large": measure()})
