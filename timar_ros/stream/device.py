"""Where a policy runs, and how a step of fixed shape runs there.

A step is a function of a shape and of one packed tensor, so that a hop costs one small copy to the device and one
back. On CUDA each shape becomes a graph that is replayed; on the CPU the same function is called.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from timar_ros.errors import TimarError
from timar_ros.model.precision import set_precision, to_float32

DEVICES = ("auto", "cuda", "cpu")


def choose_device(name: str) -> torch.device:
    """The torch device for `auto`, `cuda` or `cpu`.

    A GPU that torch finds but cannot use (its memory is full, or this torch has no kernels for it) is none for `auto`.

    Raises:
        TimarError: another name, or cuda asked for where there is none, or none that works.
    """
    if name not in DEVICES:
        raise TimarError(f"device is {name!r}; auto, cuda and cpu are allowed")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise TimarError(
            "device is cuda, but torch finds no CUDA device; use device auto or cpu, or install torch for CUDA"
        )
    trouble = _trouble_with_cuda()
    if not trouble:
        return torch.device("cuda")
    if name == "cuda":
        raise TimarError(
            f"device is cuda, but the GPU cannot be used ({trouble}); free its memory, install a torch that knows it, "
            "or use device auto or cpu"
        )
    logging.getLogger(__name__).warning("the GPU cannot be used (%s): the CPU is taken", trouble)
    return torch.device("cpu")


def _trouble_with_cuda() -> str:
    """What a first small product on the GPU fails with; nothing where it works."""
    try:
        ones = torch.ones(8, 8, device="cuda")
        (ones @ ones).cpu()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return ""


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ran out, as torch's allocator, CUDA itself or its libraries tell it."""
    return any(sign in str(error).lower() for sign in ("out of memory", "alloc_failed"))


Result = TypeVar("Result")
Packed = TypeVar("Packed", np.ndarray, Tensor)


class OnDevice(ABC):
    """A network and its memory on a device; when the GPU's memory runs out, both go on on the CPU.

    Attributes:
        device: where it runs now.
        precision: what it computes in (model/precision.py).
        fallback: why it left the GPU, or None.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        self.fallback: str | None = None
        self.device = device
        self._network = network
        self._asked_precision = precision
        self._or_on_cpu(self._settle)

    @abstractmethod
    def _make_memory(self) -> None:
        """Make what depends on the device anew, and take over what the old one remembers, if there is one."""

    def _settle(self) -> None:
        self._network.to(self.device)
        self.precision = set_precision(self._network, self._asked_precision, self.device)
        self._make_memory()

    def _or_on_cpu(self, work: Callable[[], Result]) -> Result:
        """Do `work`; if the GPU's memory runs out meanwhile, do it again on the CPU."""
        try:
            return work()
        except RuntimeError as error:
            if self.device.type == "cpu" or not _is_out_of_memory(error):
                raise
            self.fallback = f"the GPU's memory ran out ({str(error).splitlines()[0]}); the policy goes on on the CPU"
        logging.getLogger(__name__).warning(self.fallback)
        self.device = torch.device("cpu")
        self._network.cpu()
        to_float32(self._network)
        self._asked_precision = "float32"
        self._settle()
        torch.cuda.empty_cache()
        return work()


def check_follows(numbers: list[int], expected: int) -> None:
    """Frames must go on where the last hop ended.

    Raises:
        ValueError: they do not.
    """
    if numbers != list(range(expected, expected + len(numbers))):
        raise ValueError(f"frames {numbers} do not follow on; expected {expected} next")


class Packing:
    """Named arrays of fixed shapes in one float32 vector. Whole numbers up to 2^24 and truth values stay exact."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.shapes = shapes
        self.size = 0
        self._places: dict[str, slice] = {}
        for name, shape in shapes.items():
            self._places[name] = slice(self.size, self.size + math.prod(shape))
            self.size += math.prod(shape)

    def pack(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """[size] float32; every name must be given in its shape."""
        packed = np.empty(self.size, np.float32)
        for name, shape in self.shapes.items():
            packed[self._places[name]].reshape(shape)[...] = arrays[name]
        return packed

    def unpack(self, packed: Packed) -> dict[str, Packed]:
        """Views of `packed` [size], to be read or filled."""
        return {name: packed[self._places[name]].reshape(shape) for name, shape in self.shapes.items()}


class StepRunner:
    """Runs `step(shape, packed) -> result` on a device; on CUDA as one graph for each shape.

    `step` must do the same work for equal shapes and touch memory that stays where it is.
    """

    def __init__(self, step: Callable[[Hashable, Tensor], Tensor], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def capture(self, shape: Hashable, size: int) -> None:
        """Make ready for a shape whose packed input has `size` numbers. A shape that is not captured runs eagerly.

        Running it thrice, as CUDA asks for, may write nonsense to the step's memory: capture before the conversation.
        """
        packed = torch.zeros(size, device=self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step(shape, packed)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._step(shape, packed)
        self._graphs[shape] = (graph, packed, result)

    def __call__(self, shape: Hashable, packed: np.ndarray) -> np.ndarray:
        sent = torch.from_numpy(packed)
        if shape not in self._graphs:
            return self._step(shape, sent.to(self._device)).cpu().numpy()
        graph, held, result = self._graphs[shape]
        held.copy_(sent.pin_memory(), non_blocking=True)
        graph.replay()
        return result.cpu().numpy()
