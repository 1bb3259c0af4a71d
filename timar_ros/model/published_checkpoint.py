"""The published checkpoint and wav2vec 2.0's weights as a network.

The checkpoint is a pickle with `model_ema` (the weights that the published numbers belong to) and `args`; it is read
with torch's safe loader, which admits tensors and one class, argparse.Namespace. The speech encoder is not part of
it; it comes from a folder in Hugging Face's layout (config.json and model.safetensors or pytorch_model.bin).
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from timar_ros.errors import TimarError
from timar_ros.model.published import TOKENS, PublishedConfig, PublishedNetwork
from timar_ros.model.wav2vec2 import SpeechConfig

SPEECH_PREFIX = "speech_encoder."
# What is frozen or training's own in the files, and no part of the network that runs.
_IGNORED = re.compile(r"(^|\.)(masked_spec_embed|lm_head\..*|project_(q|hid)\..*|quantizer\..*)$")
_WEIGHT_NORM = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], argparse.Namespace | None]:
    """The EMA weights under their published names, and the arguments of the training.

    Raises:
        TimarError: there is no such file, it is no checkpoint, or it holds objects that could run code.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except FileNotFoundError:
        raise TimarError(f"{path} is missing; give the path of the published TIMAR.pth") from None
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "")
        raise TimarError(
            f"{path} is no checkpoint that can be loaded safely ({reason.strip() or _first_line(error)}); "
            "only tensors and argparse.Namespace are admitted; download the published file again"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise TimarError(f"{path} cannot be read ({_first_line(error)}); download it again") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("model_ema"), Mapping):
        keys = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise TimarError(f"{path} has no 'model_ema' (it holds {keys}); give the published TIMAR.pth")
    weights = {name: value for name, value in content["model_ema"].items() if isinstance(value, Tensor)}
    return weights, content.get("args")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_speech(folder: Path) -> tuple[dict[str, Tensor], SpeechConfig]:
    """wav2vec 2.0 from a folder in Hugging Face's layout.

    Raises:
        TimarError: a file is missing, or it is another kind of speech encoder.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TimarError(
            f"{folder / 'config.json'} cannot be read ({error}); give --speech a local copy of "
            "facebook/wav2vec2-large-960h-lv60-self with config.json and its weights"
        ) from error
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not files:
        raise TimarError(f"{folder} has neither model.safetensors nor pytorch_model.bin; copy the weights there")
    try:
        if files[0].suffix == ".safetensors":
            weights = load_file(files[0])
        else:
            weights = torch.load(files[0], map_location="cpu", weights_only=True)
    except Exception as error:
        raise TimarError(f"{files[0]} cannot be read ({_first_line(error)}); download it again") from error
    return {name.removeprefix("wav2vec2."): value for name, value in weights.items()}, speech_config(config)


def speech_config(config: Mapping[str, Any]) -> SpeechConfig:
    """Sizes from Hugging Face's config.json."""
    wanted = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    if wrong := {key: config.get(key) for key, value in wanted.items() if config.get(key) != value}:
        raise TimarError(
            f"the speech encoder's config.json says {wrong}; the published network needs {wanted}: "
            "facebook/wav2vec2-large-960h-lv60-self"
        )
    return SpeechConfig(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        conv_width=config["conv_dim"][0],
        position_kernel=config["num_conv_pos_embeddings"],
        position_groups=config["num_conv_pos_embedding_groups"],
    )


def published_network(
    weights: Mapping[str, Tensor], speech: SpeechConfig, heads: int | None = None, sampling_steps: int = 5
) -> PublishedNetwork:
    """The network of the size that the weights' shapes tell, with them in it.

    Args:
        weights: under their published names; those of the speech encoder begin with `speech_encoder.`.
        heads: attention heads, which shapes do not tell; None: those of the published size of that width.

    Raises:
        TimarError: keys are missing or unexpected, each named, or shapes do not fit.
    """
    ours = _our_names(weights)
    config = replace(_recognise(ours, speech, heads), sampling_steps=sampling_steps)
    with torch.device("meta"):
        network = PublishedNetwork(config)
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - ours.keys()), sorted(ours.keys() - expected.keys())
    wrong = [
        f"{name} {list(ours[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(expected.keys() & ours.keys())
        if ours[name].shape != expected[name].shape
    ]
    if missing or unexpected or wrong:
        raise TimarError(
            "the weights are not those of a published TIMAR network; "
            f"missing: {', '.join(missing) or 'nothing'}; unexpected: {', '.join(unexpected) or 'nothing'}; "
            f"of another shape: {', '.join(wrong) or 'nothing'}"
        )
    network.load_state_dict({name: value.float().contiguous() for name, value in ours.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> those of model/published.py; weight norm folded, what does not run left out."""
    renamed = {}
    for name, value in weights.items():
        if _IGNORED.search(name):
            continue
        name = name.replace("diffloss.net.", "diffusion.", 1).replace(".mlp.fc1.", ".mlp.0.").replace(".fc2.", ".2.")
        renamed[name.replace(SPEECH_PREFIX + "wav2vec.", SPEECH_PREFIX, 1)] = value
    for gain_name, direction_name in _WEIGHT_NORM:
        for name in [name for name in renamed if name.endswith("pos_conv_embed.conv." + gain_name)]:
            stem = name.removesuffix(gain_name)
            gain, direction = renamed.pop(name).float(), renamed.pop(stem + direction_name).float()
            norm = direction.square().sum(dim=(0, 1), keepdim=True).sqrt()
            renamed[stem + "weight"] = gain * direction / norm
    return renamed


def _recognise(weights: Mapping[str, Tensor], speech: SpeechConfig, heads: int | None) -> PublishedConfig:
    def count(pattern: str) -> int:
        return len({found[1] for name in weights if (found := re.match(pattern, name))})

    try:
        token_width = weights["sep_tok_emb.weight"].shape[1]
        width = weights["z_proj.weight"].shape[0]
        positions = weights["encoder_pos_embed_learned"].shape[1]
        motion_hidden = weights["motion_encoder.0.weight"].shape[0]
        diffusion_width = weights["diffusion.input_proj.weight"].shape[0]
    except KeyError as error:
        raise TimarError(f"the weights lack {error.args[0]}; they are not those of a published TIMAR network") from None
    heads = heads or {768: 12, 1024: 16, 1280: 16}.get(width)
    if heads is None or width % heads:
        raise TimarError(
            f"how many attention heads a network of width {width} has cannot be told from its weights"
            f"{f', and {heads} do not divide it' if heads else ''}; say so with --heads"
        )
    return PublishedConfig(
        token_width=token_width,
        motion_hidden=motion_hidden,
        width=width,
        blocks=count(r"encoder_blocks\.(\d+)\."),
        heads=heads,
        diffusion_width=diffusion_width,
        diffusion_depth=count(r"diffusion\.res_blocks\.(\d+)\."),
        window_turns=positions // TOKENS,
        kept_turns=min(PublishedConfig.kept_turns, positions // TOKENS - 1),
        speech=speech,
    )
