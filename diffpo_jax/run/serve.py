"""Reads a run's models and serves them: see `diffpo_jax.serving`."""

import dataclasses
import pathlib
import socket
import time
from collections.abc import Sequence

from jax.sharding import Mesh

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import DIALS, RANKINGS, Config
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import sampler
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.evaluation import threshold_choice
from diffpo_jax.models.policy import Policy
from diffpo_jax.run import base_model, early, setup
from diffpo_jax.serving.app import make_app
from diffpo_jax.serving.batch import Batch, Model
from diffpo_jax.serving.engine import Engine
from diffpo_jax.serving.gate import Gate
from diffpo_jax.serving.requests import Dial, Offer
from diffpo_jax.serving.server import Server
from diffpo_jax.serving.site import Site, Slider
from diffpo_jax.serving.texts import Texts
from diffpo_jax.system import ports
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say
from diffpo_jax.tasks.task import Example
from diffpo_jax.workdir import layout

_SLOTS = 8  # of a model if `config.sampler.slots` is None
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# What a larger dial does, for the page.
_MORE = {
    "gamma": "larger: fewer calls",
    "price": "larger: fewer calls",
    "steps": "larger: more calls",
    "confidence": "larger: more calls",
}


def serve(
    config: Config, workdir: str, names: Sequence[str], listening: socket.socket, host: str
) -> None:
    """Serves models of a run until a signal.

    Args:
      workdir: of a run, with its checkpoints.
      names: "trained", "base" or both.
      listening: a socket that listens on `host`.

    Raises:
      UserError: there is no such checkpoint, or the sampler does not fit the model.
    """
    site = make_site(config, workdir, names)
    allowed = (*_LOCAL_NAMES, host.lower()) if ports.is_local(host) else ()
    server = Server(Gate(make_app(site), allowed))
    url = ports.url(listening)
    print(f"page:     {url}/\nendpoint: {url}/v1", flush=True)
    if not allowed:
        say("warning: whoever reaches this machine can use the server: it asks for no password.")
    site.engine.start()
    try:
        server.run_on(listening)
    finally:
        site.engine.close()


def make_site(config: Config, workdir: str, names: Sequence[str]) -> Site:
    """Reads models, and compiles their programs."""
    # 1. Read the models and the tokenizer.
    run = layout.read_config(layout.Workdir(pathlib.Path(workdir)))
    config = setup.with_network_of(config, run)
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    mesh = mesh_lib.make_mesh(config.mesh)
    config = setup.with_sizes(config, tokenizer, mesh)
    policy = setup.make_policy(config, tokenizer, mesh)
    params = base_model.restore_some(workdir, names, policy, mesh, config.model.quantized)
    # 2. Make a batch for each, with what may be asked of it.
    ends = tokenizers.end_ids(tokenizer)
    batches, offers, sliders = {}, {}, {}
    for name in names:
        own = _config_of(config, name)
        batches[name] = _make_batch(own, run, name, params[name], policy, ends, mesh)
        offers[name] = _offer(own, run, name)
        sliders[name] = _slider(own)
    # 3. Read the task's test prompts, for the page.
    task, examples = _task(config, workdir)
    texts = Texts(tokenizer, config.sampler.prompt_length)
    return Site(
        engine=Engine(batches),
        texts=texts,
        offers=offers,
        sliders=sliders,
        prompt=config.task.prompt,
        fault_of=lambda text: early.prompt_fault(run.task, text),
        task=task,
        examples=examples,
        title=_title(config.task.name, pathlib.Path(workdir).resolve().name),
        created=int(time.time()),
    )


def _title(task: str, name: str) -> str:
    return name if task in name else f"{task}: {name}"


def _config_of(config: Config, name: str) -> Config:
    """The configuration of a model: a base that lacks the rule's head decodes by `base_rule`."""
    rule = config.base_rule
    if name != "base" or rule == config.sampler.rule:
        return config
    own = dataclasses.replace(config.sampler, rule=rule, ranking=RANKINGS[rule][0])
    return dataclasses.replace(config, sampler=own)


def _make_batch(
    config: Config,
    run: Config,
    name: str,
    params: Params,
    policy: Policy,
    ends: tuple[int, ...],
    mesh: Mesh,
) -> Batch:
    """A model's batch, compiled."""
    settings = sampler.make_settings(config.decoder, config.evaluation.temperature, ends)
    learns = threshold_choice.is_learned(run, config.sampler.rule, name)
    model = Model(policy, params, settings, config.sampler.prompt_length, learns)
    batch = Batch(model, config.sampler.slots or _SLOTS, mesh)
    began = time.monotonic()
    batch.compile()
    sizes = ", ".join(map(str, batch.sizes))
    say(f"{name}: compiled for {sizes} rows in {time.monotonic() - began:.1f} s")
    return batch


def _offer(config: Config, run: Config, name: str) -> Offer:
    kind, number = threshold_choice.threshold_in_use(config, run=run, model=name)
    dial = Dial(
        DIALS[config.sampler.rule],
        None if kind == "median" else number,
        lambda value: early.dial_fault(config, value),
    )
    return Offer(dial, config.sampler.length, config.evaluation.temperature)


def _slider(config: Config) -> Slider:
    """The numbers that the page's slider goes through, the rule's fixed one among them."""
    name, start = DIALS[config.sampler.rule], config.dial
    length = config.sampler.length
    decades = [float(f"{10 ** (i / 8):.3g}") for i in range(-24, 9)]  # 0.001 to 10
    blocks = length // config.decoder.block_length
    values = {
        "gamma": [0.0, *decades],
        "price": [0.0, *decades],
        "steps": [float(x) for x in range(blocks, length + 1, blocks)],
        "confidence": [x / 20 for x in range(1, 21)],
    }[name]
    return Slider(sorted({*values, start}), start, _MORE[name])


def _task(config: Config, workdir: str) -> tuple[type, Sequence[Example]]:
    """The run's task, and its test examples; a task without them if they cannot be read."""
    from diffpo_jax import tasks

    try:
        task = setup.make_task(config, layout.Workdir(pathlib.Path(workdir)))
        return task, task.examples("test")
    except (UserError, OSError) as error:
        say(f"note: the page offers no test prompts: {error}")
        return tasks.find_class(config.task.name), ()
