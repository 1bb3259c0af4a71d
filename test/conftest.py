"""Fixtures for tests with real nodes over real DDS.

The ROS environment is settled here, before anything imports rclpy: a domain of this run's own,
this machine only, and ament pointed at the environment where rclpy comes from wheels.
"""

import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run, so that a change is judged by itself; HYPOTHESIS_PROFILE=default searches anew.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

TIMEOUT_S = 60.0
"""Discovery takes up to 3 s on an idle machine, the head node's start 3 s of a core; this is for a busy one."""


def _claim_domain():
    """A domain from 1 to 100 that no other test session holds; the open file keeps it ours."""
    for domain in random.sample(range(1, 101), 100):
        lock = open(Path(tempfile.gettempdir(), f"timar_ros_test_domain_{domain}"), "w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError("100 test sessions hold all ROS domains; let one of them end")


_domain, _domain_lock = _claim_domain()
os.environ["ROS_DOMAIN_ID"] = str(_domain)
os.environ["ROS_LOCALHOST_ONLY"] = "1"
# One thread for torch, as in the head node: idle threads that spin slow everything beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not os.environ.get("AMENT_PREFIX_PATH") and Path(sys.prefix, "share/ament_index").is_dir():
    os.environ["AMENT_PREFIX_PATH"] = sys.prefix


def nodes_with(variable: str, value: str) -> list[str]:
    """Command lines of this user's processes of nodes in whose environment a variable has this value."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:  # it ended, or is another user's
            continue
        if b"timar_ros.nodes" in command and f"{variable}={value}".encode() in environment.split(b"\0"):
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


class NodeProcess:
    """A node of the package as a process of its own, its output in a file; `typed`: with a keyboard."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str], typed: bool = False):
        self._log = log
        with open(log, "w") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
                text=True,
                env={**os.environ, **env},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def type(self, line: str) -> None:
        """Write a line, as a person at the keyboard."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def wait_for_output(self, text: str, timeout: float = TIMEOUT_S) -> str:
        """The output once ``text`` is in it; fails when the process ends or time runs out first."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            running = self.running
            if text in self.output():
                return self.output()
            if not running:
                break
            time.sleep(0.02)
        pytest.fail(f"{text!r} did not appear; running: {self.running}; output:\n{self.output()}")

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """The exit code, once the process has ended by itself."""
        return self._process.wait(timeout)

    def stop(self, number: int = signal.SIGINT, timeout: float = TIMEOUT_S) -> int:
        """The exit code after a signal."""
        self._process.send_signal(number)
        return self._process.wait(timeout)

    def kill(self) -> None:
        if self.running:
            self._process.kill()
        self._process.wait()


class Graph:
    """A node of the test's own, spun by a thread, and the means to wait for other ones."""

    def __init__(self, start_node: Callable[..., NodeProcess]):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        self.start_node = start_node
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("test", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ending.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def publisher(self, message_type: type, topic: str, qos=50, matched: int = 1):
        """A publisher that has found ``matched`` subscriptions."""
        publisher = self.node.create_publisher(message_type, topic, qos)
        self.wait_for_match(publisher, matched)
        return publisher

    def collect(self, message_type: type, topic: str, qos=1000, matched: int = 1) -> list:
        """A list that fills with (time of sending in ns, message); returned once matched.

        Of sending: when a message is received here is the affair of how busy the machine is with this test.
        """
        from rclpy.subscription import Subscription

        received: list = []
        if hasattr(Subscription, "CallbackType"):

            def receive(message, info) -> None:
                received.append((info["source_timestamp"], message))

        else:  # rclpy of Humble does not tell

            def receive(message) -> None:
                received.append((self.now_ns(), message))

        subscription = self.node.create_subscription(message_type, topic, receive, qos)
        self.wait_for_match(subscription, matched)
        return received

    def collect_raw(self, message_type: type, topic: str, qos=1000) -> list[bytes]:
        """A list that fills with messages as the bytes they came in; returned once matched."""
        received: list[bytes] = []
        subscription = self.node.create_subscription(message_type, topic, received.append, qos, raw=True)
        self.wait_for_match(subscription)
        return received

    def client(self, service_type: type, name: str, timeout: float = TIMEOUT_S):
        """The test's client of a service that is there; always the same, so that the way back is matched only once."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, name)
        assert self._clients[name].wait_for_service(timeout), name
        return self._clients[name]

    def call(self, service_type: type, name: str, request, timeout: float = TIMEOUT_S, again_s: float = 2.0):
        """The answer of a service. Asked again after a while: the way back may be matched later than the way there."""
        client = self.client(service_type, name, timeout)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            future = client.call_async(request)
            again = min(time.monotonic() + again_s, end)
            while time.monotonic() < again:
                if future.done():
                    return future.result()
                time.sleep(0.01)
        pytest.fail(f"{name} did not answer within {timeout:g} s")

    def wait_for_match(self, endpoint, count: int = 1, timeout: float = TIMEOUT_S) -> None:
        """Wait until a publisher or subscription of this test sees ``count`` counterparts."""
        if hasattr(endpoint, "get_subscription_count"):
            matched = endpoint.get_subscription_count
        else:
            matched = endpoint.get_publisher_count
        self.wait_until(lambda: matched() >= count, f"{count} matches on {endpoint.topic_name}", timeout)

    def wait_until(self, condition: Callable[[], object], what: str, timeout: float = TIMEOUT_S) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"waited {timeout:g} s in vain for {what}")
            time.sleep(0.01)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what runs in real time, by the fixture that it asks for, before `-m` chooses."""
    for item in items:
        if real_time.__name__ in item.fixturenames:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def real_time():
    """Asked for by tests of nodes and pages that run in real time: `make test` runs them one by one, after the rest."""


@pytest.fixture
def start_node(tmp_path):
    """``start_node(module, parameters, *more arguments, env={})``: a running NodeProcess.

    ``module`` is a name in timar_ros.nodes; the process is killed at the test's end.
    """
    pytest.importorskip("rclpy", reason="rclpy is neither installed from ROS nor from wheels")
    processes: list[NodeProcess] = []

    def start(module: str, parameters: dict | None = None, *arguments: str, env=None):
        command = [sys.executable, "-m", f"timar_ros.nodes.{module}", "--ros-args"]
        for name, value in (parameters or {}).items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        log = tmp_path / f"{module}_{len(processes)}.log"
        processes.append(NodeProcess([*command, *arguments], log, env or {}))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def graph(start_node, real_time):
    """A Graph; its ``start_node`` is the fixture of that name."""
    graph = Graph(start_node)
    yield graph
    graph.close()
