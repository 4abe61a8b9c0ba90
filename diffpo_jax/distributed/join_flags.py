"""The flags by which a process finds the others of its run; `distributed.hosts` joins them."""

from absl import flags

_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_START = flags.DEFINE_integer("start_seconds", 300, "How long processes wait for each other.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "After so long without a sign of life a process counts as dead."
)


def join() -> None:
    """Joins the others; before anything makes JAX look for devices.  Raises `UserError`."""
    from diffpo_jax.distributed import hosts

    hosts.initialize(
        hosts.Join(
            _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _START.value, _HEARTBEAT.value
        )
    )
