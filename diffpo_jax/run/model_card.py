"""README.md of an exported model: what it is, how it decodes, what was measured, how to load it."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.analysis import summary as run_summary
from diffpo_jax.config import Config
from diffpo_jax.run import base_model, sampler_files
from diffpo_jax.workdir import layout

NAME = "README.md"

_RULES = {
    "entropy_bounded": "A call writes the most certain tokens whose summed entropy, the largest "
    "left out, is at most gamma.",
    "entropy_sum": "A call writes the most certain tokens whose summed entropy is at most gamma, "
    "or one.",
    "top_k": "A completion takes a fixed number of calls, which share its tokens evenly.",
    "confidence": "A call writes every token of at least a given probability, or one.",
    "state": "A head reads what a call found and decides how many tokens to write, at a price of "
    "calls that you name.",
}


def write(
    directory: pathlib.Path,
    config: Config,
    model: str,
    workdir: layout.Workdir,
    *,
    lineage: Mapping[str, Any],
    source: pathlib.Path | None,
    sampler: sampler_files.Written,
) -> None:
    """Writes the card.

    Args:
      model: "trained" or "base".
      workdir: of the run, for its results.
      lineage: the content of lineage.json.
      source: the published checkpoint that the run began from, if any.
    """
    licence = licence_of(source)
    parts = [
        _front(config, licence),
        f"# {_title(config, model)}",
        _origin(config, model),
        _decoding(*sampler),
        _measured(workdir, model),
        _loading(config, sampler.settings),
        _rights(licence, source, lineage),
    ]
    (directory / NAME).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def licence_of(source: pathlib.Path | None) -> str | None:
    """The licence that the card of a checkpoint names in its front matter, if it has one."""
    path = source / NAME if source else None
    if path is None or not path.exists():
        return None
    front = re.match(r"---\n(.*?)\n---", path.read_text("utf-8", errors="replace"), re.DOTALL)
    named = re.search(r"^license:\s*(\S+)\s*$", front[1], re.MULTILINE) if front else None
    return named[1] if named else None


def _front(config: Config, licence: str | None) -> str:
    lines = ["library_name: transformers", "tags: [diffpo_jax, masked-diffusion]"]
    if licence:
        lines.append(f"license: {licence}")
    if (base := _hub_name(config)) is not None:
        lines.append(f"base_model: {base}")
    return "\n".join(["---", *lines, "---"])


def _title(config: Config, model: str) -> str:
    what = "with RL of its answers and of its sampler" if model == "trained" else "before RL"
    if model == "trained" and config.mode != "joint":
        what = {"model": "with RL of its answers", "sampler": "with a learned sampler"}[config.mode]
    return f"A masked diffusion language model for {config.task.name}, {what}"


def _origin(config: Config, model: str) -> str:
    first = base_model.origin(config)
    stage, shown = first.pretrain, first.pretrain.demonstrations
    lines = ["## Where it comes from", ""]
    if first.model.weights:
        lines.append(f"- Weights: {_hub_name(config) or pathlib.Path(first.model.weights).name}.")
    else:
        own = first.model
        lines.append(
            f"- Weights: random ones of {own.layers} layers of width {own.width}, trained here."
        )
    if stage.steps:
        count = f"{shown.count:,} " if shown.count else ""
        data = shown.source or f"training examples of {first.task.name}"
        span = shown.difficulty
        levels = f" of difficulty {span[0]:g} to {span[1]:g}" if span else ""
        lines.append(f"- SFT: {stage.steps} steps of {stage.batch} on {count}{data}{levels}.")
    if model == "trained":
        rl, method = config.rl, f"method {config.method}"
        lines.append(
            f"- RL on {config.task.name}: {rl.steps} steps of {rl.prompts} prompts with {rl.group} "
            f"rollouts each, mode {config.mode}, {method}, "
            f"reward {config.task.reward or 'of the task'}{_price(config)}."
        )
    lines.append(
        f"- Prompts of at most {config.sampler.prompt_length} tokens, and completions of "
        f"{config.sampler.length}. The whole configuration is in lineage.json."
    )
    return "\n".join(lines)


def _price(config: Config) -> str:
    if config.sampler.rule == "state":
        low, high = config.rl.speed.prices
        return f" less a price of calls, {low:g} to {high:g} for {config.sampler.length}"
    weight = config.rl.speed.weight
    return f", price of calls {weight:g} ({config.rl.speed.form})" if weight else ""


def _decoding(sampler: Mapping[str, Any] | None, line: str) -> str:
    if sampler is None:
        return f"## How it decodes\n\nThe sampler was {line}."
    size, length = sampler["block_length"], sampler["length"]
    blocks = "" if size == length else f" Blocks of {size} are written one after another."
    return (
        f"## How it decodes\n\n{_RULES[sampler['rule']]}{blocks} This model: {line}. "
        "`sampler.json` has all settings."
    )


def _measured(workdir: layout.Workdir, model: str) -> str:
    head = "## Measured\n\n"
    try:
        found = json.loads((workdir.report / "summary.json").read_text("utf-8"))
        points, dial = found[model]["frontier"], run_summary.dial_of(found, model)
        rows = [(f"{point[dial]:g}", point) for point in points]
        if model == "trained" and found["trained"]["learned"]:
            rows.append(("learned", found["trained"]["learned"]))
        told = f"{found['prompts']:,} test prompts, one seed ({found['seed']})"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{head}Nothing: the run has no finished evaluation."
    return f"{head}On {told}, by diffpo_jax:\n\n{_table(dial, rows)}"


def _table(dial: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    lines = [f"| {dial} | solved | calls | tokens per call |", "|---|---|---|---|"]
    for name, point in rows:
        numbers = f"{point['accuracy']:.1%} | {point['nfe']:.2f} | {point['tokens_per_call']:.1f}"
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines)


def _loading(config: Config, sampler: Mapping[str, Any] | None) -> str:
    tiny = config.model.family == "tiny"
    kind = "PreTrainedTokenizerFast" if tiny else "AutoTokenizer"
    trust = "" if tiny else ", trust_remote_code=True"
    lines = [
        "## Load it",
        "",
        "DIR is the path of this directory. Its code is run, so read it first; if it comes from a",
        "hub, take a commit that you have read. It needs PyTorch, transformers and safetensors.",
        "",
        "```python",
        f"from transformers import AutoModel, {kind}",
        "",
        f"tokenizer = {kind}.from_pretrained(DIR{trust})",
        "model = AutoModel.from_pretrained(DIR, trust_remote_code=True)",
    ]
    if sampler is None:
        return "\n".join([*lines, "```"])
    number = "price=1.0" if sampler["rule"] == "state" else f"gamma={sampler['dial'] or 0.1:g}"
    lines += [
        'batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt",',
        "                  add_special_tokens=False)",
        "ids, mask = batch.input_ids, batch.attention_mask",
        'code = {"custom_generate": DIR, "trust_remote_code": True}',
        "out = model.generate(ids, attention_mask=mask, **code)",
        "answers = tokenizer.batch_decode(out.sequences[:, ids.shape[1] :])",
        "```",
        "",
        f"An answer ends before the first token of id {' or '.join(map(str, sampler['end_ids']))}.",
        "`out.calls` counts the calls of each row, and `out.commit_call` says which one wrote each",
        f"token. `model.generate(..., {number})` takes a number of yours. A model whose class has",
        "no GenerationMixin is given to the function itself:",
        "",
        "```python",
        "import sys",
        "",
        'sys.path.insert(0, DIR + "/custom_generate")',
        "from generate import generate",
        "",
        "out = generate(model, ids, mask, sampler=DIR)",
        "```",
    ]
    return "\n".join(lines)


def _rights(licence: str | None, source: pathlib.Path | None, lineage: Mapping[str, Any]) -> str:
    if licence:
        weights = f"Weights: {licence}, as its base says; see there for its terms."
    elif source:
        weights = "Weights: see the licence of the base."
    else:
        weights = "Weights: trained from random ones; who trained them has named no licence."
    lines = ["## Licence and lineage", "", f"{weights} The code that diffpo_jax added: Apache-2.0."]
    if lineage["base_sha256"]:
        lines.append(f"SHA-256 of the base's weights: `{lineage['base_sha256']}`.")
    lines.append(f"Commit of diffpo_jax: `{lineage['commit']}`.")
    return "\n".join(lines)


def _hub_name(config: Config) -> str | None:
    """The hub name of the weights that a run began from, unless they were in a directory."""
    weights = base_model.weights_of(config)
    path = pathlib.Path(weights or ".")
    return None if path.is_absolute() or path.is_dir() else weights
