"""A policy's folder: config.yaml, weights.safetensors, MODEL_CARD.md."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from timar_ros.errors import TimarError
from timar_ros.model.config import NetworkConfig
from timar_ros.model.network import TimarNetwork
from timar_ros.model.published import PublishedConfig, PublishedNetwork
from timar_ros.resources import share_path

FORMAT = "timar_ros/1"
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.yaml", "weights.safetensors", "MODEL_CARD.md"
KINDS: dict[str, tuple[type, type]] = {
    "own": (NetworkConfig, TimarNetwork),
    "published": (PublishedConfig, PublishedNetwork),
}

# Of temperatures, rates, gains and frames; more of any is a slip of the pen.
MOST = 100.0

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Policy:
    """A network ready to run and what its folder says of it.

    Attributes:
        channels: names of the numbers in a frame of motion, in order.
        sampling: defaults of the draw (temperature and the like), see stream/sampling.py.
        folder: where it was loaded from.
    """

    name: str
    network: TimarNetwork | PublishedNetwork
    channels: tuple[str, ...]
    sampling: dict[str, Any]
    folder: Path | None = None

    def sampling_as(self, settings: type[Settings]) -> Settings:
        """The folder's sampling settings as a class of numbers.

        Raises:
            TimarError: one is unknown or no number.
        """
        try:
            numbers = {name: float(value) for name, value in self.sampling.items()}
            for name, value in numbers.items():
                if not 0.0 <= value <= MOST:
                    raise ValueError(f"{name} is {value:g}; 0 to {MOST:g} is allowed")
            return settings(**numbers)
        except (AttributeError, TypeError, ValueError) as error:
            raise TimarError(f"policy {self.name}: section 'sampling' of config.yaml is wrong: {error}") from error


def load_policy(name_or_folder: str | os.PathLike[str]) -> Policy:
    """Load a policy in float32 on the CPU, ready for inference.

    Args:
        name_or_folder: a name under the package's models/, or the path of a folder (with a slash in it).

    Raises:
        TimarError: the folder is missing, half written, or its weights do not fit its config.
    """
    folder = Path(name_or_folder)
    if folder.name == str(name_or_folder):
        folder = share_path("models") / folder
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.glob("*") if (path / CONFIG_FILE).is_file())
        there = f"{folder.parent} holds {', '.join(beside)}" if beside else f"{folder.parent} holds no policy"
        raise TimarError(f"no policy folder at {folder}; {there}; give the name or path of a folder with {CONFIG_FILE}")
    config = _read_config(folder / CONFIG_FILE)
    channels = config.get("channels")
    kind = config.get("kind", "own")
    if not isinstance(kind, str) or kind not in KINDS:
        raise TimarError(f"{folder / CONFIG_FILE}: kind is {kind!r}; {' and '.join(KINDS)} are known")
    config_class, network_class = KINDS[kind]
    network_config = config_class.from_dict(config.get("network"))
    if not isinstance(channels, list) or len(channels) != network_config.motion_dim:
        raise TimarError(
            f"{folder / CONFIG_FILE}: 'channels' must list the {network_config.motion_dim} names of a motion frame"
        )
    # Initial values are replaced at once. On the meta device they take no memory, but to draw them there torch loads
    # its compiler, which takes longer (1.3 s) than to draw those of our own sizes.
    with torch.device("cpu" if kind == "own" else "meta"), torch.random.fork_rng(devices=[]):
        network = network_class(network_config)
    _load_weights(network, folder / WEIGHTS_FILE)
    return Policy(
        folder.resolve().name,
        network.eval().requires_grad_(False),
        tuple(channels),
        config.get("sampling") or {},
        folder,
    )


def save_policy(
    folder: str | os.PathLike[str],
    network: TimarNetwork | PublishedNetwork,
    channels: tuple[str, ...],
    sampling: dict[str, Any],
) -> None:
    """Write config.yaml and weights.safetensors; a reader never sees half of a file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / (WEIGHTS_FILE + ".part"))
    config = {
        "format": FORMAT,
        "kind": next(kind for kind, (_, network_class) in KINDS.items() if isinstance(network, network_class)),
        "network": network.config.to_dict(),
        "sampling": dict(sampling),
        "channels": list(channels),
    }
    (folder / (CONFIG_FILE + ".part")).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (folder / (WEIGHTS_FILE + ".part")).chmod(0o644)  # safetensors makes files that only their owner reads
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        os.replace(folder / (name + ".part"), folder / name)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TimarError(
            f"{path} is missing; a policy folder holds {CONFIG_FILE}, {WEIGHTS_FILE} and {CARD_FILE}"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TimarError(f"{path} cannot be read as YAML ({error}); copy the policy folder again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise TimarError(f"{path} says format {found!r}; this version of timar_ros reads {FORMAT!r}")
    return config


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    try:
        # Not mapped: copied over while a head runs, a mapped file would end it with a bus error.
        weights = load(path.read_bytes())
    except FileNotFoundError:
        raise TimarError(f"{path} is missing; copy the whole policy folder again") from None
    except (OSError, SafetensorError) as error:
        raise TimarError(f"{path} is no whole safetensors file ({error}); copy the policy folder again") from error
    expected = network.state_dict()
    missing, unknown = (
        sorted(expected.keys() - weights.keys()),
        sorted(weights.keys() - expected.keys()),
    )
    if missing or unknown:
        raise TimarError(
            f"{path} does not fit its config.yaml: missing {_some(missing)}; unexpected {_some(unknown)}; "
            "weights and config must come from the same training run"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise TimarError(
                f"{path}: {name} has the shape {list(tensor.shape)}, config.yaml asks for "
                f"{list(expected[name].shape)}; weights and config must come from the same training run"
            )
        if not _is_sound(name, tensor):
            raise TimarError(
                f"{path}: {name} holds numbers that are not finite; copy the policy folder again or train anew"
            )
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)


def _is_sound(name: str, tensor: torch.Tensor) -> bool:
    """Numbers all, or the partner's scale of a channel that the training's data does not tell, which is infinite."""
    unknown = name.endswith("partner_scale") & (tensor == torch.inf)
    return bool((torch.isfinite(tensor) | unknown).all())


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"
