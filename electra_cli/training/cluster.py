"""Processes that train together: who they are, by config, TF_CONFIG or Slurm; waiting for them; comparing them."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import tensorflow as tf
from tensorflow.python.eager import context

import electra_cli
from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers.logger import Logger

_SLURM_PORT, _NUM_SLURM_PORTS, _PORTS_OF_JOB = 20_000, 10_240, 16
_SECONDS_BETWEEN_NOTICES = 30.0
# Comparisons of this process so far: the workers make the same ones, and those of one have the same number.
_comparisons = itertools.count()


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Processes that train together: 'host:port' of each, this one's index, and what names them."""

    addresses: tuple[str, ...]
    index: int
    source: str

    def to_tf_config(self) -> str:
        """Returns the value of the environment variable TF_CONFIG, which TensorFlow reads."""
        return json.dumps(
            {"cluster": {"worker": list(self.addresses)}, "task": {"type": "worker", "index": self.index}}
        )


def find_cluster(settings: ml_collections.FrozenConfigDict, environment: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster of this process, named by the config, else TF_CONFIG, else Slurm; None: it trains alone.

    Raises a `UserError` if that is not usable.
    """
    if settings.worker_addresses:
        cluster = _from_settings(settings)
    elif settings.worker_index >= 0:
        raise UserError("config.runtime.worker_index is given without config.runtime.worker_addresses: give both")
    elif environment.get("TF_CONFIG"):
        cluster = _from_tf_config(environment["TF_CONFIG"])
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        cluster = _from_slurm(environment)
    else:
        return None
    return cluster if len(cluster.addresses) > 1 else None


def _from_settings(settings: ml_collections.FrozenConfigDict) -> Cluster:
    addresses = tuple(settings.worker_addresses.split(","))
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(
                f"config.runtime.worker_addresses={settings.worker_addresses}: {address!r} is no host:port; give "
                f"host1:port,host2:port,..."
            )
    if not 0 <= settings.worker_index < len(addresses):
        raise UserError(
            f"config.runtime.worker_index={settings.worker_index}: give each of the {len(addresses)} workers its "
            f"number, from 0 to {len(addresses) - 1}"
        )
    return Cluster(addresses, settings.worker_index, "config.runtime.worker_addresses")


def _from_tf_config(text: str) -> Cluster:
    try:
        record = json.loads(text)
        chiefs = record["cluster"].get("chief", [])
        addresses = tuple(chiefs + record["cluster"].get("worker", []))
        task = record["task"]
        index = int(task["index"]) + (len(chiefs) if task["type"] == "worker" else 0)
        if task["type"] not in ("chief", "worker") or not 0 <= index < len(addresses):
            raise ValueError(f"no {task['type']} {task['index']} in the cluster")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the environment variable TF_CONFIG is not usable ({type(error).__name__}: {error}); it must be like "
            f'{{"cluster": {{"worker": ["host1:port", "host2:port"]}}, "task": {{"type": "worker", "index": 0}}}}'
        ) from error
    return Cluster(addresses, index, "TF_CONFIG")


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    # TensorFlow's resolver itself sorts hosts by name, where node10 comes before node2 and tasks are numbered
    # otherwise, and needs GPUs.
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm  # noqa: PLC0415

    try:
        hosts = slurm.expand_hostlist(environment["SLURM_STEP_NODELIST"])
        tasks = slurm.expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        # Jobs that share a node, often of consecutive numbers, must not share ports.
        port = _SLURM_PORT + int(environment["SLURM_JOB_ID"]) * _PORTS_OF_JOB % _NUM_SLURM_PORTS
        index = int(environment["SLURM_PROCID"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"Slurm's environment variables are not usable ({type(error).__name__}: {error}); start with srun, or give "
            f"config.runtime.worker_addresses and config.runtime.worker_index"
        ) from error
    addresses = [f"{host}:{port + task}" for host, number in zip(hosts, tasks, strict=True) for task in range(number)]
    return Cluster(tuple(addresses), index, "Slurm")


@contextlib.contextmanager
def joining(cluster: Cluster, logger: Logger) -> Iterator[None]:
    """Waits until all other workers have started, then lets SIGTERM and SIGINT end the process at once.

    TensorFlow's own wait holds Python's lock, so that no handler of signals runs, and names nobody. Until each worker
    has seen the others listen at their addresses, none of them begins it.

    Raises a `UserError` if this worker's own address is in use.
    """
    _wait_for_others(cluster, logger)
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _wait_for_others(cluster: Cluster, logger: Logger) -> None:
    own = cluster.addresses[cluster.index]
    try:
        listener = socket.create_server(("", _split(own)[1]), backlog=len(cluster.addresses))
    except OSError as error:
        raise UserError(
            f"worker {cluster.index} cannot listen at its address {own} ({cluster.source}): "
            f"{os.strerror(error.errno or 0)}; end the process that does, or give each worker a port and a number of "
            f"its own"
        ) from error
    others = dict(enumerate(cluster.addresses))
    del others[cluster.index]
    next_notice = time.monotonic() + 1.0  # workers that are started together need no notice
    with listener:
        while True:
            reasons = {index: reason for index, address in others.items() if (reason := _why_absent(address))}
            others = {index: others[index] for index in reasons}
            if not others:
                return
            if time.monotonic() >= next_notice:
                logger.notice(f"Waiting for {_describe_absent(others, reasons)} to start.")
                next_notice = time.monotonic() + _SECONDS_BETWEEN_NOTICES
            time.sleep(0.2)


def _why_absent(address: str) -> str:
    """Returns why nothing can be reached at an address; '' if something listens there."""
    try:
        socket.create_connection(_split(address), timeout=1.0).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _describe_absent(addresses: Mapping[int, str], reasons: Mapping[int, str]) -> str:
    named = [f"worker {index} ({address}: {reasons[index]})" for index, address in addresses.items()]
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def check_same(index: int, number: int, record: Mapping[str, Any]) -> None:
    """Compares what `number` workers, of which this is `index`, were started with; all must call it.

    Args:
      record: by name, as 'config.train.seed'; values are of JSON. That of the code is added.

    Raises:
      UserError: they differ; in all of them, with the same text.
      Interrupted: a worker ended before.
    """
    call = next(_comparisons)
    record = {**record, "the code": _describe_code()}

    def write(key: str, text: str) -> None:
        context.context().set_config_key_value(f"electra-pretrain/{call}/{key}", text)

    def read(key: str) -> str:
        return _read(f"electra-pretrain/{call}/{key}", index)

    if index:
        write(str(index), json.dumps(record))
        mistake = read("mistake")
        write(f"{index} has read", "")
    else:
        mistake = _describe_differences(record, {other: json.loads(read(str(other))) for other in range(1, number)})
        write("mistake", mistake)
        for other in range(1, number):
            read(f"{other} has read")  # what is written here is gone when this process ends
    if mistake:
        raise UserError(mistake)


def _read(key: str, index: int) -> str:
    """Waits for a value of the coordination service, where signals can end the wait."""
    while True:
        try:
            return context.context().get_config_key_value(key, timeout_in_ms=1000)
        except tf.errors.DeadlineExceededError:
            continue
        except tf.errors.OpError as error:
            raise Interrupted(
                f"worker {index} lost another worker before training began; start all of them again"
            ) from error


def _describe_differences(chief: Mapping[str, Any], others: Mapping[int, Mapping[str, Any]]) -> str:
    """Returns an error's text about what differs from the record of worker 0; '' where nothing does."""
    # Through JSON, as the others' came.
    chief = json.loads(json.dumps(chief))
    differences: dict[str, str] = {}
    for index, record in others.items():
        for key in sorted(chief.keys() | record.keys()):
            if chief.get(key) != record.get(key):
                mine, theirs = (json.dumps(values.get(key)) for values in (chief, record))
                differences.setdefault(key, f"{key}: {mine} in worker 0, {theirs} in worker {index}")
    if not differences:
        return ""
    return (
        f"the workers were started differently: {'; '.join(differences.values())}: start all with the same command, "
        f"data and installation"
    )


def _describe_code() -> str:
    """Returns the versions of this package and TensorFlow, and a hash of the package's modules."""
    package = pathlib.Path(electra_cli.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{electra_cli.__version__} {digest.hexdigest()[:8]}, TensorFlow {tf.__version__}"
