"""Where jobs run: all cores of this machine through joblib, or a Dask or Ray cluster, whose packages are optional."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import joblib

from timar_ros.errors import TimarError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1: one for each core")
    parser.add_argument(
        "--cluster",
        metavar="KIND[:ADDRESS]",
        help="run on a cluster instead: dask:tcp://HOST:8786 or ray:HOST:6379; without an address one is started here",
    )


@contextmanager
def backend(cluster: str | None) -> Iterator[None]:
    """joblib's jobs inside run on `cluster`, or in processes of this machine where it is None.

    Raises:
        TimarError: the kind is unknown, its package is missing, or the cluster does not answer.
    """
    if cluster is None:
        yield
        return
    kind, _, address = cluster.partition(":")
    if kind not in ("dask", "ray"):
        raise TimarError(f"--cluster is {cluster!r}; expected dask or ray, with an address behind a colon")
    try:
        close = _connect_dask(address) if kind == "dask" else _connect_ray(address)
    except ImportError as error:
        package = "'dask[distributed]'" if kind == "dask" else "ray"
        raise TimarError(
            f"--cluster {kind} needs a package that is missing ({error}): pip install {package}"
        ) from error
    except (OSError, ConnectionError, ValueError) as error:
        raise TimarError(f"the {kind} cluster at {address or 'this machine'} does not answer ({error})") from error
    try:
        with joblib.parallel_config(backend=kind):
            yield
    finally:
        close()


def _connect_dask(address: str) -> Callable[[], None]:
    client = import_module("dask.distributed").Client(address or None, set_as_default=True)
    return client.close


def _connect_ray(address: str) -> Callable[[], None]:
    ray = import_module("ray")
    ray.init(address=address or None, ignore_reinit_error=True)
    import_module("ray.util.joblib").register_ray()
    return ray.shutdown


def in_parallel(function: Callable[..., Any], jobs: Sequence[tuple], processes: int = -1) -> Iterator[Any]:
    """The results of `function(*job)` for every job, as they come; one process runs them here, in order."""
    if processes == 1:
        yield from (function(*job) for job in jobs)
        return
    call = joblib.delayed(_in_process)
    yield from joblib.Parallel(n_jobs=processes, return_as="generator_unordered")(call(function, job) for job in jobs)


def _in_process(function: Callable[..., Any], job: tuple) -> Any:
    # What was imported stays: looking through it at each collection of garbage took 4 % of a bag's evaluation.
    if not gc.get_freeze_count():
        gc.freeze()
    return function(*job)
