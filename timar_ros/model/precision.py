"""What a network's large products are computed in: float32, bfloat16, or int8 with scales found on the fly.

Only the linear layers and the attention of `reducible` modules change; norms, residual streams, what is small and
the diffusion head stay in float32. The relative error of the condition z stays under 3 % (test_precision.py).
"""

from __future__ import annotations

import time
import warnings

import torch
from torch import nn

from timar_ros.errors import TimarError
from timar_ros.model.transformer import Block

FLOAT32, BFLOAT16, INT8, AUTO = "float32", "bfloat16", "int8", "auto"
PRECISIONS = (AUTO, FLOAT32, BFLOAT16, INT8)
# A network smaller than this runs in float32 on the CPU: its step is bound by attention and by calls, not products.
LARGE_PARAMETERS = 50_000_000


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
            torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8, inplace=True)
        return
    for part in [part for part in module.modules() if hasattr(part, "dtype")]:
        part.dtype = torch.bfloat16
        for layer in part.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                layer.to(torch.bfloat16)


def _fastest(network: nn.Module, device: torch.device) -> str:
    """bfloat16 on CUDA; on the CPU what this machine runs one layer of the network's width fastest in."""
    if device.type != "cpu":
        return BFLOAT16
    if sum(parameter.numel() for parameter in network.parameters()) < LARGE_PARAMETERS:
        return FLOAT32
    width = network.config.width
    seconds = {precision: _seconds(width, precision) for precision in (FLOAT32, BFLOAT16, INT8)}
    return min(seconds, key=seconds.get)


@torch.inference_mode()
def _seconds(width: int, precision: str, tokens: int = 110) -> float:
    """The time of a block over so many tokens."""
    layer = Block(width, heads=16)
    if precision != FLOAT32:
        _reduce(layer, precision)
    x = torch.randn(1, tokens, width)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
