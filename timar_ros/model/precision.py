"""What a network's large products are computed in: float32, bfloat16, or int8 with scales found on the fly.

Only the linear layers and the attention of `reducible` modules change; norms, residual streams, what is small and
the diffusion head stay in float32. In what `auto` takes the relative error of the condition z stays under 3 %.
"""

from __future__ import annotations

import functools
import time
import warnings

import torch
from torch import nn

from timar_ros.errors import TimarError
from timar_ros.model.transformer import Block

FLOAT32, BFLOAT16, INT8, AUTO = "float32", "bfloat16", "int8", "auto"
PRECISIONS = (AUTO, FLOAT32, BFLOAT16, INT8)
# A coarser precision must take at most this share of a finer one's time to be worth its error.
WORTHWHILE = 0.9


def set_precision(network: nn.Module, precision: str, device: torch.device) -> str:
    """Bring the blocks of `network.reducible` to a precision, in place; returns the one that `auto` stood for.

    Args:
        network: in float32, with an attribute `reducible`: the modules whose blocks may be reduced; each of their
            submodules with a `dtype` computes in that.

    Raises:
        TimarError: the precision is not known, does not exist on the device, or the network already has another.
    """
    if precision not in PRECISIONS:
        raise TimarError(f"precision is {precision!r}; {', '.join(PRECISIONS)} are allowed")
    if precision == INT8 and device.type != "cpu":
        raise TimarError("precision int8 is for the CPU; use bfloat16, float32 or auto on a CUDA device")
    already = getattr(network, "precision", None)
    if precision == AUTO:
        precision = already or _fastest(network, device)
    if already not in (None, precision):
        raise TimarError(f"this network was already brought to {already}; load the policy again for {precision}")
    if already is None and precision != FLOAT32:
        for module in network.reducible:
            _reduce(module, precision)
    network.precision = precision
    return precision


def to_float32(network: nn.Module) -> None:
    """Undo bfloat16 (what was rounded stays rounded)."""
    for module in network.reducible:
        for part in module.modules():
            if hasattr(part, "dtype"):
                part.dtype = torch.float32
        module.float()
    network.precision = FLOAT32


def _reduce(module: nn.Module, precision: str) -> None:
    if precision == INT8:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its successor, torchao, is a package of its own
            scheme = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
            torch.ao.quantization.quantize_dynamic(module, scheme, dtype=torch.qint8, inplace=True)
        return
    for part in [part for part in module.modules() if hasattr(part, "dtype")]:
        part.dtype = torch.bfloat16
        for layer in part.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                layer.to(torch.bfloat16)


def _fastest(network: nn.Module, device: torch.device) -> str:
    """bfloat16 on CUDA; on the CPU what this machine runs a block of the network's width fastest in."""
    if device.type != "cpu":
        return BFLOAT16
    return _fastest_on_cpu(network.config.width, network.config.heads, torch.get_num_threads())


@functools.cache
def _fastest_on_cpu(width: int, heads: int, threads: int) -> str:
    """Measured once in a process, so that equal policies in it compute equal bits.

    int8 is left to be asked for: in the published `large` size its error of z is 4 %.
    """
    worthwhile = _seconds(width, heads, BFLOAT16) < WORTHWHILE * _seconds(width, heads, FLOAT32)
    return BFLOAT16 if worthwhile else FLOAT32


@torch.inference_mode()
def _seconds(width: int, heads: int, precision: str, fresh: int = 60, kept: int = 800) -> float:
    """The time of a block over `fresh` tokens that see `kept` ones, too: a turn of half the longest length."""
    block = Block(width, heads)
    if precision != FLOAT32:
        _reduce(block, precision)
    x = torch.randn(1, fresh, width)
    cache = torch.zeros(2, 1, heads, kept + fresh, width // heads, dtype=block.dtype)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        block(x, cache=cache, at=kept)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
