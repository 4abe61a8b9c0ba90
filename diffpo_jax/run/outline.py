"""What a run is about to do, in words, for the terminal."""

from diffpo_jax.config import Config
from diffpo_jax.run.setup import Setup
from diffpo_jax.workdir import checkpoints


def describe(setup: Setup, *, base_only: bool) -> str:
    """The stages that are left, what they train, and where the results go; one line for each.

    Args:
      base_only: whether the run ends with the base model.
    """
    config, workdir = setup.config, setup.workdir
    # 1. Stages.
    stages = [_base(config, checkpoints.latest_step(workdir.base))]
    if not base_only:
        stages.append(_rl(config, checkpoints.latest_step(workdir.rl)))
        tests, most = len(setup.task.examples("test")), config.evaluation.examples
        stages.append(f"evaluation on {min(tests, most or tests):,} test prompts")
    # 2. Sizes.
    mesh, count = setup.mesh, sum(leaf.size for leaf in setup.parameters)
    mib = sum(leaf.mib for leaf in setup.parameters)
    device = f"{mesh.devices.flat[0].device_kind} device"
    where = f"on one {device}" if mesh.size == 1 else f"on each of {mesh.size} {device}s"
    return (
        f"{config.task.name}: {'; then '.join(stages)}.\n"
        f"{count:,} parameters, {mib:,.1f} MiB {where}. The first step of a stage compiles, which "
        "takes longer.\n"
        f"Results: {workdir.root}. The same command goes on where it was stopped."
    )


def _base(config: Config, done: int | None) -> str:
    if config.init_from:
        return f"base model of {config.init_from}"
    if not config.pretrain.steps:
        return f"base model {config.model.weights or 'with random weights'}"
    return f"base model, {_steps(done, config.pretrain.steps, 'SFT')}"


def _rl(config: Config, done: int | None) -> str:
    rl = config.rl
    rollouts = f"{rl.prompts} prompts x {rl.group} rollouts"
    how = f"mode {config.mode}, method {config.method}, rule {config.sampler.rule}"
    return f"RL, {_steps(done, rl.steps, rollouts)} ({how})"


def _steps(done: int | None, last: int, of: str) -> str:
    return f"{done} of {last} steps of {of} done" if done else f"{last} steps of {of}"
