"""The flags that tell a process how to join the others of its run, see `distributed.hosts`."""

import os

from absl import flags

_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")
_START = flags.DEFINE_integer("start_seconds", 300, "How long processes wait for each other.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "A process without a sign of life for so long counts as dead."
)


# Set where JAX finds the other processes by itself.
_CLUSTERS = (
    "SLURM_JOB_ID",
    "TPU_WORKER_HOSTNAMES",
    "OMPI_MCA_orte_hnp_uri",
    "MEGASCALE_NUM_SLICES",
)


def is_alone() -> bool:
    """Whether nothing says that there are other processes, which would wait if this one ended."""
    return _COORDINATOR.value is None and not any(name in os.environ for name in _CLUSTERS)


def join() -> None:
    """Joins the other processes; call it before JAX looks for devices. Raises `UserError`."""
    from diffpo_jax.distributed import hosts

    hosts.initialize(
        hosts.Join(
            _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _START.value, _HEARTBEAT.value
        )
    )
