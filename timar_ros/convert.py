"""`timar convert`: the published checkpoint and wav2vec 2.0's weights become a policy folder."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import CARD_FILE, save_policy
from timar_ros.model.published_checkpoint import SPEECH_PREFIX, published_network, read_checkpoint, read_speech
from timar_ros.motion.flame import EXPRESSION_FILE, FLAME_CHANNELS, ExpressionMap

SIZES = {768: "base", 1024: "large", 1280: "huge"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="the published TIMAR.pth")
    parser.add_argument(
        "--speech", type=Path, required=True, metavar="DIR", help="wav2vec 2.0 weights in Hugging Face's layout"
    )
    parser.add_argument("--out", type=Path, required=True, help="the policy folder to write")
    parser.add_argument("--heads", type=int, help="attention heads, where the checkpoint's args do not tell them")
    parser.add_argument(
        "--expression", type=Path, metavar="CSV", help="FLAME expression to ARKit blendshapes, see docs/published.md"
    )


def run(args: argparse.Namespace) -> int:
    if args.out.exists() and any(args.out.iterdir()):
        raise TimarError(f"{args.out} exists and is not empty; give --out a new folder")
    if args.expression is not None:
        ExpressionMap.load(args.expression)
    weights, trained_with = read_checkpoint(args.checkpoint)
    speech, speech_config = read_speech(args.speech)
    weights |= {SPEECH_PREFIX + name: value for name, value in speech.items()}
    network = published_network(weights, speech_config, args.heads or getattr(trained_with, "encoder_num_heads", None))
    save_policy(args.out, network, FLAME_CHANNELS, {})
    if args.expression is not None:
        shutil.copyfile(args.expression, args.out / EXPRESSION_FILE)
    config = network.config
    size = f"{SIZES.get(config.width, f'of width {config.width}')} ({config.blocks} blocks)"
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    (args.out / CARD_FILE).write_text(
        f"# TIMAR, {size}, as published\n\n"
        f"Converted by `timar convert` from `{args.checkpoint.name}` (EMA weights) and the speech encoder in "
        f"`{args.speech.name}`: {millions:.0f} million parameters. Data, method and figures are "
        "those of arXiv 2512.15340. Its motion is FLAME's; see docs/published.md of timar_ros.\n",
        encoding="utf-8",
    )
    print(f"{args.out}: TIMAR {size}, {millions:.0f} million parameters with the speech encoder")
    return 0
