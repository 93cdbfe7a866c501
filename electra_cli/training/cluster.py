"""Which processes train together: from config, TF_CONFIG or Slurm to addresses and this process' place among them."""

import dataclasses
import json
from collections.abc import Mapping

import ml_collections

from electra_cli.errors import UserError

_SLURM_PORT, _NUM_SLURM_PORTS, _PORTS_OF_JOB = 20_000, 10_240, 16


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Processes that train together.

    Attributes:
      addresses: 'host:port' of each worker.
      index: which of them this process is; the first is the chief, which alone writes to the workdir.
      source: who said so.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    def to_tf_config(self) -> str:
        """Returns the value of the environment variable TF_CONFIG that TensorFlow reads."""
        return json.dumps(
            {"cluster": {"worker": list(self.addresses)}, "task": {"type": "worker", "index": self.index}}
        )


def find_cluster(settings: ml_collections.FrozenConfigDict, environment: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster that this process is part of; None when it trains alone.

    Args:
      settings: `config.runtime`; its addresses come before all else.
      environment: environment variables; TF_CONFIG comes before Slurm's.

    Raises:
      UserError: what is said of the cluster cannot be right.
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
