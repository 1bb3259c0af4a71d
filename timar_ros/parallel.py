"""Where jobs run: all cores of this machine through joblib, or a Dask or Ray cluster, whose packages are optional."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import joblib
from joblib.parallel import get_active_backend

from timar_ros.errors import TimarError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1: one for each core")
    parser.add_argument(
        "--cluster",
        metavar="KIND[:ADDRESS]",
        help="run on a cluster instead: dask:tcp://HOST:8786 or ray:HOST:6379; without an address one is started here",
    )


def check(args: argparse.Namespace) -> None:
    """Raises TimarError where there is no such number of processes or kind of cluster, or they do not go together."""
    if args.jobs == 0 or args.jobs < -1:
        raise TimarError(f"--jobs {args.jobs} cannot be used; expected a number of processes, or -1: one on each core")
    if args.cluster is not None:
        _kind_and_address(args.cluster)
        if args.jobs == 1:
            raise TimarError("--jobs 1 is this process, and no cluster; leave out --jobs or --cluster")


@contextmanager
def backend(cluster: str | None) -> Iterator[None]:
    """joblib's jobs inside run on `cluster`, or in processes of this machine where it is None.

    Raises:
        TimarError: the kind is unknown, its package is missing, or the cluster does not answer.
    """
    if cluster is None:
        yield
        return
    kind, address = _kind_and_address(cluster)
    try:
        close = _connect_dask(address) if kind == "dask" else _connect_ray(address)
    except ImportError as error:
        package = "'dask[distributed]'" if kind == "dask" else "ray"
        raise TimarError(
            f"--cluster {kind} needs a package that is missing ({error}); install it on every machine of the cluster: "
            f"pip install {package}; or leave out --cluster to use the cores of this machine"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise TimarError(
            f"no {kind} cluster answered at {address or 'this machine'} ({error}); expected the address of its "
            f"scheduler: --cluster {kind}:ADDRESS"
        ) from error
    try:
        with joblib.parallel_config(backend=kind):
            yield
    finally:
        close()


def _kind_and_address(cluster: str) -> tuple[str, str]:
    kind, _, address = cluster.partition(":")
    if kind not in ("dask", "ray"):
        raise TimarError(f"--cluster is {cluster!r}; expected dask or ray, with an address behind a colon")
    return kind, address


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
    cluster, _ = get_active_backend()
    as_they_come = "generator_unordered" if cluster.supports_return_generator else "list"  # Ray's does not
    call = joblib.delayed(_in_process)
    yield from joblib.Parallel(n_jobs=processes, return_as=as_they_come)(call(function, job) for job in jobs)


def _in_process(function: Callable[..., Any], job: tuple) -> Any:
    # What was imported stays: looking through it at each collection of garbage took 4 % of a bag's evaluation.
    if not gc.get_freeze_count():
        gc.freeze()
    return function(*job)
