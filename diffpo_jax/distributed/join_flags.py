"""The flags that tell a process how to join the others of its run, see `distributed.hosts`."""

from absl import flags

_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")
_START = flags.DEFINE_integer("start_seconds", 300, "How long processes wait for each other.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "A process without a sign of life for so long counts as dead."
)


def join() -> None:
    """Joins the other processes; call it before JAX looks for devices. Raises `UserError`."""
    from diffpo_jax.distributed import hosts

    hosts.initialize(
        hosts.Join(
            _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _START.value, _HEARTBEAT.value
        )
    )
