"""Where many independent pieces of work run: on this machine's cores, or on a Dask or Ray cluster."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblib import parallel_config

from timar_ros.errors import TimarError

BACKENDS = ("loky", "dask", "ray")


@contextmanager
def cluster(backend: str, jobs: int, scheduler: str | None = None) -> Iterator[None]:
    """Within it joblib's Parallel works on `backend`.

    Args:
        jobs: processes on this machine; of a cluster at `scheduler` all workers work.
        scheduler: Dask's or Ray's address; None starts a cluster of `jobs` processes on this machine.

    Raises:
        TimarError: the backend is not installed, or the cluster does not answer.
    """
    if backend == "loky":
        with parallel_config(backend="loky", n_jobs=jobs):
            yield
    elif backend == "dask":
        distributed = _module("dask.distributed", "dask[distributed]")
        with (
            _connected(distributed.Client, backend, scheduler, n_workers=jobs, threads_per_worker=1) as client,
            parallel_config(backend="dask", client=client, n_jobs=-1),
        ):
            yield
    else:
        ray = _module("ray", "ray")
        importlib.import_module("ray.util.joblib").register_ray()
        with _connected(ray.init, backend, scheduler, num_cpus=jobs), parallel_config(backend="ray", n_jobs=-1):
            yield


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        backend = name.partition(".")[0]
        raise TimarError(
            f"--backend {backend} needs {backend}, which is not installed ({error}); install it on every machine of "
            f"the cluster with: pip install '{package}', or leave out --backend to use the cores of this machine"
        ) from error


def _connected(connect: Any, backend: str, scheduler: str | None, **local: int) -> Any:
    """A connection to the cluster at `scheduler`, or to one made here."""
    try:
        return connect(scheduler) if scheduler else connect(**local)
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise TimarError(
            f"no {backend} cluster answered at {scheduler or 'this machine'} ({error}); expected the address of its "
            "scheduler, such as tcp://10.0.0.5:8786; give it with --scheduler"
        ) from error
