"""A run from top to bottom: data, base model, RL, evaluation, report.

Every stage picks up where a kill left it: what is on disk decides, and what is computed again
comes out the same.
"""

import functools
import pathlib
from typing import Any

import jax

from diffpo_jax.analysis import summary as summary_lib
from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, TrainState
from diffpo_jax.config import Config, check, convert
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import sampler
from diffpo_jax.distributed import hosts, sharding
from diffpo_jax.models.flops import Network
from diffpo_jax.report import write as report_lib
from diffpo_jax.rl import optimizer, trainer, update
from diffpo_jax.run import base_model, frontiers
from diffpo_jax.run import setup as run_setup
from diffpo_jax.run.setup import Setup
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import checkpoints, metrics, provenance
from diffpo_jax.workdir.layout import check_path, open_workdir

_PREFLIGHT_SECONDS = 300.0  # hosts of a large slice import and read at their own pace


def run(
    config: Config, path: str, *, overwrite: bool = False, base_only: bool = False
) -> dict[str, Any]:
    """Runs or resumes an experiment in a workdir.

    Args:
      overwrite: removes what is there of another run first.
      base_only: ends when there is a base model.

    Returns:
      The summary, as in report/summary.json; empty with `base_only`.

    Raises:
      UserError: anything the user can mend; nothing that was on disk is lost.
    """
    check_path(path)
    config = run_setup.with_weights(config)
    check.check_training(config)
    text, commit = convert.to_json(config), provenance.commit()
    hosts.preflight(pathlib.Path(path), text, commit, _PREFLIGHT_SECONDS)
    workdir = hosts.in_turn(
        lambda: open_workdir(path, config, overwrite=overwrite and hosts.is_first())
    )
    setup = run_setup.prepare(config, workdir)
    with setup.writer:
        if base_only:
            base_model.base_model(setup)
            return {}
        trained = train(setup, base_model.base_model(setup))
    # Read again: while RL runs, no device holds a model that is not needed.
    base = base_model.read(workdir.root, setup.policy, setup.mesh, config.model.quantized)
    summary, outcomes = frontiers.final_evaluation(setup, base, trained)
    if hosts.is_first():
        lines = metrics.read(workdir.metrics)
        report_lib.write_report(workdir.report, summary, lines, outcomes)
        print(summary_lib.final_table(summary))
        print(f"report: {workdir.report}")
    return summary


def train(setup: Setup, base: Params) -> Params:
    """RL from the base model, which is consumed; all parameters after the last step."""
    config, policy = setup.config, setup.policy
    groups = optimizer.trained(config.mode, bool(config.lora.rank))
    updates = config.rl.steps * config.rl.inner_updates
    opt = optimizer.make_optimizer(config.rl.optimizer, groups, updates)
    init = functools.partial(update.init_state, optimizer=opt)
    shapes = sharding.abstract(base_model.trained_shapes(config, policy), setup.mesh)
    wanted = sharding.abstract(jax.eval_shape(init, shapes), setup.mesh)
    layout = jax.tree.map(lambda x: x.sharding, wanted)
    frozen = {name: base[name] for name in base if name not in groups}
    start_of = {name: base[name] for name in base if name in groups}
    reference = None
    if config.rl.objective.kl:
        # The state is donated step by step: a reference needs arrays of its own.
        copy = functools.partial(base_model.reference, config=config)
        own = jax.jit(copy, out_shardings=jax.tree.map(lambda x: x.sharding, start_of))
        reference = frozen | own(start_of)
    del base

    def fresh() -> TrainState:
        if "adapter" in groups:
            where = jax.tree.map(lambda x: x.sharding, shapes["adapter"])
            make = jax.jit(policy.init_adapter, out_shardings=where)
            start_of["adapter"] = make(rng.key_for(config.seed, "adapter"))
        return jax.jit(init, donate_argnums=0, out_shardings=layout)(start_of)

    programs = trainer.make_programs(
        setup.policy,
        opt,
        config.rl,
        sampler.make_settings(
            config.sampler,
            config.sampler.temperature,
            tokenizers.end_ids(setup.tokenizer),
            config.threshold.scope,
        ),
        groups,
        setup.mesh,
        wanted,
        run_setup.slots(config),
    )
    loop = trainer.Trainer(
        programs=programs,
        config=config.rl,
        sampler=config.sampler,
        logging=config.logging,
        groups=groups,
        frozen=frozen,
        fingerprint=sharding.fingerprint(frozen),
        dial=config.dial,
        seed=config.seed,
        mesh=setup.mesh,
        network=Network(config.model, config.lora, policy.vocab),
        task=setup.task,
        tokenizer=setup.tokenizer,
        examples=setup.task.examples("train"),
        reference=reference,
        evaluate=functools.partial(frontiers.validate, setup),
        evaluate_every=config.evaluation.every,
        write_samples=lambda step, rows: run_setup.write_samples(setup, f"rl-{step:06d}", rows),
        profile=setup.workdir.profile,
    )
    data = run_setup.iterator(setup, config.rl.prompts * config.rl.candidates, trainer.STAGE)
    with checkpoints.Checkpoints(setup.workdir.rl, config.checkpoint, config.rl.steps) as saved:
        where: tuple[Any, ...] = (data, trainer.STAGE, config.rl.steps)
        if saved.latest() is not None:
            start_of.clear()  # before the state is restored: not both of them on the devices
        start, state, meta = run_setup.resume(setup, saved, wanted, fresh, *where)
        start_of.clear()
        if start and meta.get("frozen", "") != loop.fingerprint:
            raise UserError(
                f"{setup.workdir.rl}: the base model is not the one that step {start} was trained "
                "over; what config.init_from or config.model.weights names has changed. Put it "
                "back, or begin anew in another --workdir."
            )
        state = loop.run(state, data, saved, setup.writer, start=start, meta=meta)
    return frozen | state.params
