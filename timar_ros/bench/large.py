"""The published `large` size with random weights, turn by turn on the CPU: the whole window each turn, as the published
code computes it, beside cached turns, in each precision.

Both encode only the new second of both voices and draw 25 frames; the cached side includes closing turns and its share
of encoding anew when the window slides.
"""

from __future__ import annotations

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

RECOMPUTED_TURNS = 3
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


def play(stepper: PublishedPolicy, turns: int) -> tuple[list[float], np.ndarray]:
    """Seconds of each turn, closing and sliding with it, and z of the last."""
    taken = []
    for turn in range(turns):
        frames = noise_frames(turn * FRAMES, FRAMES)

        def one(frames=frames) -> None:
            stepper.step(frames, [])
            stepper.settle()

        taken.append(timed(one))
    return taken, stepper._window.z.float().numpy()


def measure() -> dict[str, object]:
    network = random_network()
    config = network.config
    cycle = config.window_turns - config.kept_turns
    recompute_turn(network)
    recompute = [timed(lambda: recompute_turn(network)) for _ in range(RECOMPUTED_TURNS)]
    cached, errors, sustained = {}, {}, {}
    exact = None
    for precision in (FLOAT32, BFLOAT16, INT8):
        if precision != FLOAT32:
            network = random_network()
        set_precision(network, precision, CPU)
        stepper = PublishedPolicy(Policy("large", network, FLAME_CHANNELS, {}), "cpu", precision=precision)
        # From a full window on: a whole number of slides, each with the turns that it makes room for.
        taken, z = play(stepper, config.window_turns + 2 * cycle)
        cached[precision] = round(float(np.mean(taken[config.window_turns :])), 3)
        exact = z if exact is None else exact
        errors[precision] = round(float(np.linalg.norm(z - exact) / np.linalg.norm(exact)), 4)
        if cached[precision] <= min(cached.values()):
            stepper.reset()
            sustained = {precision: round(sum(play(stepper, SUSTAINED_TURNS)[0]) / SUSTAINED_TURNS, 3)}
    fastest = min(cached, key=cached.get)
    seconds = float(np.median(recompute))
    return {
        "million_parameters": round(sum(p.numel() for p in random_network().parameters()) / 1e6, 1),
        "recompute_s_per_turn": round(seconds, 3),
        "cached_s_per_turn": cached,
        "recompute_over_cached": {precision: round(seconds / value, 2) for precision, value in cached.items()},
        "relative_error_of_z": errors,
        "fastest": fastest,
        "realtime_factor": sustained[fastest],
        "kept_turns": config.kept_turns,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    write_result({"large": measure()})
