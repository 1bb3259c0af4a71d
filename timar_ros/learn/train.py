"""`timar train`: TIMAR's objective on conversations of two parties.

The batch of step n depends on seed and n alone (learn/batches.py), so a run that is resumed gives what it would have
given, on the CPU to the last bit. What is learned is in learn/objective.py.

Several GPUs, or machines: torchrun --nproc-per-node 4 -m timar_ros.cli train --data ... --out ...; each worker draws
windows of its own.
"""

from __future__ import annotations

import argparse
import copy
import csv
import ctypes
import hashlib
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from timar_ros.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.errors import TimarError
from timar_ros.learn.batches import Batches, batches
from timar_ros.learn.dataset import Conversation, at_rest_where_unknown, fingerprint, load_conversations
from timar_ros.learn.motion_units import set_motion_units
from timar_ros.learn.objective import Objective
from timar_ros.learn.recipe import Recipe
from timar_ros.learn.speech_teaching import teach
from timar_ros.learn.uninterrupted import clip_gradients, keep, load_kept, uninterrupted
from timar_ros.learn.wandering import SETTLED, settle, wander_through
from timar_ros.learn.watching import write_sample_video
from timar_ros.learn.windows import Windows, draw_window, require_longer
from timar_ros.model.checkpoint import Policy, load_policy, save_policy
from timar_ros.model.config import NetworkConfig
from timar_ros.model.network import TimarNetwork
from timar_ros.model.speech_encoder import HEARD_BEFORE_FRAMES
from timar_ros.motion.flame import ExpressionMap
from timar_ros.stream.sampling import Sampling

# What a run is measured by meanwhile: the same windows each time.
LOOK_WINDOWS, LOOK_SEED = 12, 0

# The others wait while the first finds the turns of all the data, teaches the speech encoder and lets a policy wander.
FIRST_WORKER_TAKES = timedelta(hours=12)

# How a new policy draws, until that is set in its folder's config.yaml.
SAMPLING = Sampling(
    head_temperature=1.1, head_correlation_frames=1.25, head_return_per_s=0.1,
    posture_return_per_s=1.5, face_posture_return_per_s=1.5,
    eyes_temperature=1.3, mouth_temperature=0.0, mouth_gain=1.25, mouth_spread_frames=0.5, nod_threshold=0.15,
)  # fmt: skip


@dataclass(frozen=True)
class Workers:
    """The processes that train together: one, or as many as `torchrun` started."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def join(cls) -> Workers:
        """Meet the others that `torchrun` started, if it did; each takes the GPU of its number where there are GPUs."""
        rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
            torch.set_float32_matmul_precision("high")  # TF32 in what is not in bfloat16
        if count > 1:
            kind = "nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(kind, timeout=FIRST_WORKER_TAKES)
        return cls(rank, count, device)

    def shared(self, objective: Objective) -> nn.Module:
        """The objective, its gradients averaged over all workers."""
        if self.count == 1:
            return objective
        return DistributedDataParallel(objective, [self.device] if self.device.type == "cuda" else None)

    def wait(self) -> None:
        """For the others. What the first does and they use afterwards, it does before this, and they behind it."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        if self.count > 1:
            torch.distributed.destroy_process_group()


def keep_memory() -> None:
    """Let the C library keep what is freed: by default it returns large blocks to the kernel, and faulting them in
    again for each activation takes a third to a half of a step on the CPU."""
    if sys.platform == "linux":
        allocator = ctypes.CDLL(None)
        if hasattr(allocator, "mallopt"):  # glibc's
            trim_threshold, mmap_max = -1, -4
            allocator.mallopt(mmap_max, 0)
            allocator.mallopt(trim_threshold, 2**31 - 1)


class Run:
    """A training run in a folder: checkpoint.pt to go on from, metrics.csv, and the policy of the EMA weights."""

    def __init__(
        self,
        folder: Path,
        config: NetworkConfig,
        recipe: Recipe,
        conversations: list[Conversation],
        workers: Workers | None = None,
        start: Policy | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.workers = workers or Workers()
        self.started = start is not None
        self.data = fingerprint(conversations)
        self.origin = self.data, start and _weights_told(start.network)
        self.sampling = start.sampling if start else asdict(SAMPLING)
        torch.manual_seed(recipe.seed)
        self.network = TimarNetwork(config)
        self.network.diffusion.zero_gates()
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())  # units and shown channels are set below
        self.network.speech_encoder.requires_grad_(False)
        set_motion_units(self.network, conversations, self.started)
        self.objective = Objective(self.network, recipe, conversations).to(self.workers.device)
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema)
        )
        learning = [p for p in self.objective.parameters() if p.requires_grad]
        decayed = [p for p in learning if p.ndim > 1]
        others = [p for p in learning if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            fused=self.workers.device.type == "cuda",
        )
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def settled(self) -> Path:
        """There once the policy is settled, which is not to be done twice."""
        return self.folder / "settled"

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one; else what another run left there is removed."""
        if not self.checkpoint.exists():
            if not self.workers.rank:
                for left in (*self.folder.glob("wandered_*.npz"), self.metrics, self.settled):
                    left.unlink(missing_ok=True)
            return
        state = load_kept(self.checkpoint, self.workers.device)
        if (state["config"], state["recipe"]) != (self.network.config.to_dict(), asdict(self.recipe)):
            raise TimarError(f"{self.checkpoint} was made with other settings; give the same ones or another --out")
        if state.get("origin") != self.origin:
            raise TimarError(
                f"{self.checkpoint} was made of other data or from another --start; give the same or another --out"
            )
        try:
            for name in ("objective", "averaged", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TimarError(f"{self.checkpoint} is of another version of timar_ros; give another --out") from error
        self.step = state["step"]

    def save(self) -> None:
        """Write what to go on from, and the policy; the first worker does."""
        if self.workers.rank:
            return
        state = {name: getattr(self, name).state_dict() for name in ("objective", "averaged", "optimizer")}
        state |= {
            "step": self.step,
            "config": self.network.config.to_dict(),
            "recipe": asdict(self.recipe),
            "origin": self.origin,
        }
        keep(state, self.checkpoint)
        save_policy(self.folder / "policy", self.averaged.module, CHANNELS, self.sampling)

    def look(self, held_out: list[Conversation] | None, conversations: list[Conversation]) -> None:
        """Measure the averaged weights on conversations that are not learned from, and write a video of the first."""
        network = self.averaged.module.eval()
        if held_out:
            rng = np.random.default_rng(LOOK_SEED)
            recipe, longest = self.recipe, network.config.max_turn_frames
            windows = [
                draw_window(
                    rng,
                    held_out,
                    recipe.short_window_frames,
                    recipe.short_open_groups,
                    longest,
                    heard_before=HEARD_BEFORE_FRAMES,
                )  # fmt: skip
                for _ in range(LOOK_WINDOWS)
            ]
            objective = Objective(network, recipe, held_out).to(self.workers.device)
            objective.lips = self.objective.lips
            with torch.no_grad():
                loss, parts = objective(Windows.stack(windows, LOOK_SEED).to(self.workers.device))
            with (self.folder / "held_out.csv").open("a", newline="", encoding="utf-8") as log:
                csv.writer(log).writerow([self.step, f"{loss:.5f}", *(f"{value:.5f}" for value in parts.values())])
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        policy = Policy("training", copy.deepcopy(network).cpu(), CHANNELS, self.sampling)
        try:
            write_sample_video(policy, (held_out or conversations)[0], samples / f"step_{self.step:06d}.mp4")
        except (TimarError, OSError) as error:  # it is only to look at
            print(f"no sample video of step {self.step}: {error}", file=sys.stderr)

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        recipe = self.recipe
        if self.step < recipe.warmup_steps:
            return recipe.learning_rate * (self.step + 1) / recipe.warmup_steps
        progress = (self.step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return recipe.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train(
        self,
        conversations: list[Conversation],
        until: int | None = None,
        held_out: list[Conversation] | None = None,
        look_every: int = 500,
        save_every_s: float = 120.0,
    ) -> None:
        """Train to the recipe's last step, or to step `until`; what breaks it off, Ctrl-C or an error, leaves it saved.

        Every `look_every` steps the first worker measures the averaged weights' loss on `held_out` (held_out.csv) and
        writes a video of its first conversation (samples/); without `held_out`, a video of the first learned from.
        """
        recipe, first, saved = self.recipe, self.workers.rank == 0, time.monotonic()
        objective, began = self.workers.shared(self.objective), self.step
        if first:
            _cut(self.metrics, self.step)
        log = (self.metrics if first else Path(os.devnull)).open("a", newline="", encoding="utf-8")
        progress = tqdm(total=recipe.steps, initial=self.step, unit="step", mininterval=5.0, disable=not first)
        last_step = recipe.steps if until is None else min(until, recipe.steps)
        try:
            while self.step < last_step:
                self.save()  # what comes before the next batch takes long
                pause = self._next_wandering(last_step)
                dataset = Batches(
                    self._wandered(conversations), recipe, self.network.config, self.workers.rank, HEARD_BEFORE_FRAMES
                )
                for windows in batches(dataset, self.step, pause, self.workers.device):
                    with uninterrupted():
                        losses = self._learn(objective, windows)
                        if first and not log.tell():
                            csv.writer(log).writerow(["step", *losses])
                        csv.writer(log).writerow([self.step, *(f"{value:.5f}" for value in losses.values())])
                    progress.update()
                    progress.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
                    if time.monotonic() - saved > save_every_s:
                        log.flush()
                        self.save()
                        saved = time.monotonic()
                    if first and look_every and self.step % look_every == 0:
                        self.look(held_out, conversations)
        finally:
            log.close()
            # A policy that was finished before may have been settled, and its config.yaml edited.
            if self.step > began or not (self.folder / "policy").exists():
                self.save()

    def _learn(self, objective: nn.Module, windows: Windows) -> dict[str, float]:
        """One step; the loss and its parts."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss, parts = objective(windows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(self.objective.parameters(), self.step)
        self.optimizer.step()
        self.averaged.update_parameters(self.network)
        self.step += 1
        # Fetched together: each number by itself would wait for the device.
        return dict(zip(("loss", *parts), torch.stack([loss.detach(), *parts.values()]).tolist(), strict=True))

    def _next_wandering(self, last_step: int) -> int:
        every = self.recipe.wander_every
        return min(last_step, (self.step // every + 1) * every) if self.recipe.wandering and every else last_step

    def _wandered(self, conversations: list[Conversation]) -> list[Conversation]:
        """The conversations, in the first of them what the policy drew when it last wandered.

        The first worker lets the averaged weights wander, at every `wander_every` steps and at the beginning where it
        is another policy's; what they drew is kept in the folder, for the other workers and for a run that is resumed.
        """
        recipe = self.recipe
        step = self.step // recipe.wander_every * recipe.wander_every if recipe.wander_every else 0
        if not recipe.wandering or (step == 0 and not self.started):
            return conversations
        first, kept = conversations[: recipe.wandering_conversations], self.folder / f"wandered_{step:06d}.npz"
        if self.workers.rank == 0 and not kept.exists():
            network = copy.deepcopy(self.averaged.module).cpu().eval()
            drawn = wander_through(Policy("training", network, CHANNELS, self.sampling), first, recipe.seed + step)
            part = kept.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(file, *drawn)
            part.replace(kept)
        self.workers.wait()
        with np.load(kept) as arrays:
            drawn = [arrays[f"arr_{k}"] for k in range(len(first))]
        return [replace(c, drawn=motion) for c, motion in zip(first, drawn, strict=True)] + conversations[len(first) :]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, help="folder of conversations in DualTalk's layout")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder of the run; an unfinished run there is resumed",
    )
    parser.add_argument(
        "--start",
        nargs="+",
        metavar="POLICY",
        help="begin with this policy's weights, size and sampling, not with random weights; of several, with the mean "
        "of their weights and the sampling of the first",
    )
    parser.add_argument(
        "--held-out", type=Path, metavar="DIR", help="conversations to measure by and not to learn from"
    )
    parser.add_argument(
        "--look-every",
        type=int,
        default=500,
        help="steps from one measurement and sample video to the next; 0: none (500)",
    )
    parser.add_argument(
        "--expression", type=Path, metavar="CSV", help="what FLAME's expressions are as blendshapes (motion/flame.py)"
    )
    parser.add_argument(
        "--until", type=int, help="stop after this step; the same command without it goes on from there"
    )
    for option in fields(Recipe):
        name, words = option.name.replace("_", "-"), f"{option.metadata['help']} (default: {option.default})"
        parser.add_argument(f"--{name}", type=type(option.default), default=option.default, help=words)
    sizes = NetworkConfig()
    for name in ("width", "blocks", "heads"):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=getattr(sizes, name),
            help=f"size of the backbone (default: {getattr(sizes, name)})",
        )


def run(args: argparse.Namespace) -> int:
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    if recipe.wandering and not args.start and not recipe.wander_every:
        raise TimarError("--wandering needs a policy that wanders; give it as --start, or give --wander-every")
    start = _mean_of([load_policy(name) for name in args.start]) if args.start else None
    config = start.network.config if start else NetworkConfig(width=args.width, blocks=args.blocks, heads=args.heads)
    args.out.mkdir(parents=True, exist_ok=True)
    expression = ExpressionMap.load(args.expression) if args.expression else None
    keep_memory()
    workers = Workers.join()
    try:
        if workers.rank:
            workers.wait()  # the first finds the turns and keeps them beside the data
        conversations = load_conversations(args.data, expression)
        held_out = load_conversations(args.held_out, expression) if args.held_out else None
        if held_out:
            require_longer(held_out, recipe.short_window_frames)
            _refuse_known(held_out, conversations)
        if start is not None:
            usual = start.network.motion_mean.numpy()
            conversations = at_rest_where_unknown(conversations, usual)
            held_out = held_out and at_rest_where_unknown(held_out, usual)
        if not workers.rank:
            workers.wait()
        training = Run(args.out, config, recipe, conversations, workers, start)
        if start is None:
            if workers.rank:
                workers.wait()
            teach(
                training.network.speech_encoder,
                conversations,
                recipe,
                args.out / "speech_encoder.pt",
                data=training.data,
            )
            if not workers.rank:
                workers.wait()
            training.averaged.module.speech_encoder.load_state_dict(training.network.speech_encoder.state_dict())
        training.resume()
        training.train(conversations, args.until, held_out, args.look_every)
        unsettled = recipe.settle_conversations and not training.settled.exists()
        if unsettled and training.step == recipe.steps and not workers.rank:
            policy = load_policy(f"{args.out / 'policy'}/")
            moved, wider = settle(policy, conversations, recipe.settle_conversations, recipe.seed)
            save_policy(policy.folder, policy.network, policy.channels, policy.sampling)
            training.settled.touch()
            head, face = np.split(np.flatnonzero(SETTLED), [len(HEAD_CHANNELS)])
            print(
                "the head was moved by roll {:.2f}, pitch {:.2f}, yaw {:.2f} degrees,".format(*np.degrees(moved[head]))
            )
            print("and its movement about there multiplied by {:.2f}, {:.2f} and {:.2f};".format(*wider[head]))
            print("the face:", ", ".join(f"{CHANNELS[k]} {moved[k]:+.3f}, x {wider[k]:.2f}" for k in face))
    finally:
        workers.leave()
    if workers.rank == 0:
        print(f"the policy is in {args.out / 'policy'}; copy the folder to models/NAME to use it")
    return 0


def _cut(metrics: Path, step: int) -> None:
    """Leave out the rows of steps that are made once more, as the run was broken off after it had last saved."""
    if not metrics.exists():
        return
    rows = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if not row.split(",")[0].isdigit() or int(row.split(",")[0]) <= step]
    if len(kept) < len(rows):
        metrics.write_text("".join(kept), encoding="utf-8")


def _refuse_known(held_out: list[Conversation], conversations: list[Conversation]) -> None:
    known = {fingerprint([each]) for each in conversations}
    if common := [each.name for each in held_out if fingerprint([each]) in known]:
        raise TimarError(
            f"--held-out: {', '.join(common[:5])} is learned from as well; give conversations that are not in --data"
        )


def _weights_told(network: TimarNetwork) -> str:
    """Tells a network's weights from others'."""
    told = hashlib.blake2b(digest_size=16)
    for tensor in network.state_dict().values():
        told.update(tensor.contiguous().cpu().numpy().data)
    return told.hexdigest()


def _mean_of(policies: list[Policy]) -> Policy:
    """The mean of the weights, which does well where the policies come from one and the same (Wortsman et al. 2022)."""
    first = policies[0]
    for policy in policies:
        if policy.channels != CHANNELS:
            raise TimarError(
                f"--start: policy {policy.name} is no network of this kind; give one that `timar train` made"
            )
        if policy.network.config != first.network.config:
            raise TimarError(
                f"--start: policy {policy.name} is of another size than {first.name}; give policies of one size"
            )
    states = [policy.network.state_dict() for policy in policies]
    first.network.load_state_dict({name: torch.stack([s[name] for s in states]).mean(dim=0) for name in states[0]})
    return first
