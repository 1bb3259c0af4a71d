"""Starting and stopping a node's process: signals, errors that a person reads, clean release.

rclpy's own signal handlers tear the context down under running callbacks; here SIGINT and SIGTERM
only ask the spin loop to end, so that every node closes its devices and files, and the process
exits with 0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.utilities import try_shutdown

from timar_ros.errors import TimarError

SPIN_S = 0.1
"""How long one turn of the spin loop waits at most: the delay with which a signal is noticed."""

LONGEST_FAREWELL = Duration(seconds=5.0)
"""How long a node waits at the end of its file or bag for those who have not heard it to the end."""

_stop = threading.Event()
_failures: list[Exception] = []


def request_stop() -> None:
    """Let the running node end as on SIGINT (a file was played to its end); from any thread."""
    _stop.set()


def fail(error: Exception) -> None:
    """Let the running node end with the error of a thread of its own; from any thread."""
    _failures.append(error)
    _stop.set()


def start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A thread that has begun; what it raises ends the node, which would else go on without it."""

    def guarded() -> None:
        try:
            target()
        except Exception as error:
            fail(error)

    thread = threading.Thread(target=guarded, name=name)
    thread.start()
    return thread


def use_wheels_prefix() -> None:
    """Point ament at this environment where rclpy comes from wheels, which do not do it."""
    index = Path(sys.prefix) / "share/ament_index"
    if not os.environ.get("AMENT_PREFIX_PATH") and index.is_dir():
        os.environ["AMENT_PREFIX_PATH"] = sys.prefix


def events_executor() -> Executor:
    """rclpy's executor for many small callbacks, where this rclpy has it, else the usual one.

    Measured at 100 messages/s: 1 % of a core instead of 6 %. Callbacks of subscriptions must take
    the message alone: with a second argument (message info) rclpy 7.1.6 fails there.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def run(
    make_node: Callable[[], Node],
    args: Sequence[str] | None = None,
    make_executor: Callable[[], Executor] = SingleThreadedExecutor,
) -> int:
    """Spin the node of ``make_node()`` until SIGINT, SIGTERM, SIGHUP or ``request_stop``; the exit code.

    0 after a stop that was asked for. 1 after a TimarError, from the start, a callback, ``fail`` or the close,
    with its sentence on stderr. Any other exception is a defect and passes through with its traceback,
    after the node was closed. A node may offer ``close()``, called once before ``destroy_node()``,
    while the context still lives; a lifecycle node is taken through its shutdown transition first.
    ``args`` as for ``rclpy.init`` (the process's own by default).
    """
    _stop.clear()
    _failures.clear()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {s: signal.signal(s, lambda *_: _stop.set()) for s in signals}
    use_wheels_prefix()
    node = None
    executor = None
    name, code = "", 0
    try:
        _init(args)
        node = make_node()
        name = f"{node.get_name()}: "
        executor = make_executor()
        executor.add_node(node)
        while not _stop.is_set() and rclpy.ok():
            executor.spin_once(timeout_sec=SPIN_S)
        if _failures:
            raise _failures[0]
    except ExternalShutdownException:
        pass
    except TimarError as error:
        code = _told(name, error)
    finally:
        # A second Ctrl-C while closing must not tear a half-written bag apart.
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        try:
            _close(node, executor)
        except TimarError as error:
            code = _told(name, error)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    return code


def take_waiting(subscription: Subscription, most: int) -> None:
    """Hand what has come, at most so much, to a subscription's callback: what a node that ends would lose.

    For the executor's thread, or a node that none spins any more.
    """
    with subscription.handle:
        for _ in range(most):
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is None:
                return
            subscription.callback(taken[0])


def ros_arguments(parameters: Mapping[str, object]) -> list[str]:
    """Parameters as they are given on a node's command line."""
    settings = [word for name, value in parameters.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
    return ["--ros-args", *settings]


def _init(args: Sequence[str] | None) -> None:
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        raise TimarError(
            f"ROS could not start: {error}; expected are ROS arguments such as "
            "--ros-args -p NAME:=VALUE -r FROM:=TO --params-file FILE"
        ) from error


def _told(name: str, error: TimarError) -> int:
    """The exit code, after the sentence."""
    print(f"{name}{error}", file=sys.stderr, flush=True)
    return 1


def _close(node: Node | None, executor: Executor | None) -> None:
    try:
        if node is not None:
            if isinstance(node, LifecycleNode) and rclpy.ok():
                _shut_down(node)
            close = getattr(node, "close", None)
            if close is not None:
                close()
    finally:
        if executor is not None:
            executor.shutdown(timeout_sec=2.0)
        if node is not None:
            node.destroy_node()
        try_shutdown()


def _shut_down(node: LifecycleNode) -> None:
    """The shutdown transition from whatever primary state the node is in; none from
    ``finalized``.
    """
    try:
        node.trigger_shutdown()
    except Exception as error:
        node.get_logger().warning(f"no shutdown transition from the present state: {error}")
