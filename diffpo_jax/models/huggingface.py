"""Reads directories of published safetensors files into sharded arrays, and writes them.

Tensors are read one at a time, of stacked blocks one layer at a time: a host holds a device's part
of one published tensor at a time, and reads only the parts of a file that its devices need.
Published kernels are [out, in] and the denoiser's [in, out]; the embedding is [V D] in both.
"""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax.sharding import NamedSharding, PartitionSpec

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import ModelConfig
from diffpo_jax.models import families, published_config, quantization, tensor_files
from diffpo_jax.models.families import FAMILIES
from diffpo_jax.models.quantization import Quantized
from diffpo_jax.system import files, hub_names
from diffpo_jax.system.errors import UserError

SINGLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", published_config.NAME
LINEAGE = "lineage.json"
# Files besides the weights that an export copies; code is copied, never run.
_COMPANIONS = (".json", ".py", ".txt", ".model", ".jinja")
_NAMED = 8  # tensors that do not fit, in a message
_WEIGHTS = ".safetensors"
_DTYPES = ("F64", "F32", "F16", "BF16")  # others are quantised, and mean nothing without scales
_PARTS, _PART = 16, 2**20  # of a file that `quick_fingerprint` reads, in bytes
_ROWS = 8_192  # of the embedding that are compared at once
NOT_TRANSPOSED = ("embed", "place")  # tables of rows, not kernels


class Tensor(NamedTuple):
    """A published tensor, and the parameter that it belongs to."""

    name: str
    path: str  # the parameter's path below params["denoiser"]
    layer: int | None  # index in stacked blocks, None for other tensors
    shape: tuple[int, ...]  # as published
    transposed: bool


def locate(source: str) -> pathlib.Path:
    """The directory of a checkpoint: `source` itself, or a download of that hub name.

    "OWNER/NAME@REVISION" names a commit, branch or tag.

    Raises:
      UserError: `source` is neither a directory nor a name that can be downloaded.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        return path
    name, revision = hub_names.split(source)
    if len(pathlib.Path(name).parts) != 2 or path.is_absolute() or revision == "":
        raise UserError(f"{source} is neither a directory nor a hub name (owner/name[@revision]).")
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in (".safetensors", *_COMPANIONS)]
    try:
        return pathlib.Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot download {source} from the Hugging Face hub: {reason} Check the name and the "
            "network, or give a local directory."
        ) from error


def adopt_sizes(model: ModelConfig) -> ModelConfig:
    """The section with the family and sizes of the weights it names; unchanged if it names none.

    Raises:
      UserError: the weights are missing, or their family is unknown; or it sees by blocks, whose
        size is not said, or twice with two values.
    """
    if not model.weights:
        return model
    directory = locate(model.weights)
    family = _family_of(directory, model)
    fields = published_config.read_model_config(
        directory, family, autoregressive=model.autoregressive
    )
    _check_sizes(directory, family, fields)
    if model.logit_shift is not None:
        fields.pop("logit_shift", None)
    if FAMILIES[family].origin or published_config.own_block_keys(FAMILIES[family]):
        fields["attention_block"] = _agreed_block(directory, family, fields, model)
    return dataclasses.replace(model, family=family, **fields)


def _agreed_block(
    directory: pathlib.Path, family: str, fields: Mapping[str, Any], model: ModelConfig
) -> int | None:
    """Positions of a block, by config.json or the configuration, which must not contradict it."""
    known, path = FAMILIES[family], directory / CONFIG
    key = known.settings.get("attention_block", "attention_block")
    stored, given = fields.get("attention_block"), model.attention_block
    if stored and given and stored != given:
        raise UserError(
            f"config.model.attention_block={given}, but {path} has {key}={stored}: set it to "
            f"{stored}, and config.sampler.block_length to {stored} or a divisor."
        )
    if known.origin and not (stored or given):
        raise UserError(
            f"{path} has no {key}, the positions of a block that family {family!r} sees by: set "
            "config.model.attention_block to those of the model card."
        )
    return stored or given


def _check_sizes(directory: pathlib.Path, family: str, sizes: Mapping[str, Any]) -> None:
    """Raises `UserError` if config.json has other layers or sizes than the weights.

    Networks are built from these sizes before all tensors are compared with them, which would take
    long, or all memory, with a number that is much too large.
    """
    if not any((directory / name).exists() for name in (INDEX, SINGLE)):
        return  # a plan needs no weights; who reads them says that there are none
    names, path = FAMILIES[family].weights, directory / CONFIG
    with contextlib.ExitStack() as stack:
        stored = _open(directory, stack)
        before, after = re.escape(names["blocks/q"]).split(re.escape("{i}"))
        found = [re.fullmatch(f"{before}([0-9]+){after}", name) for name in stored]
        layers = sum(match is not None for match in found)
        if layers and layers != sizes["layers"]:
            raise UserError(f"{path} says {sizes['layers']} layers, and the weights have {layers}.")
        head = sizes.get("head_dim") or sizes["width"] // sizes["heads"]
        rows = {"embed": sizes["vocab"], "blocks/q": sizes["heads"] * head}
        rows |= {"blocks/k": sizes["kv_heads"] * head, "blocks/gate": sizes["ff"]}
        for path_of, count in rows.items():
            name, wanted = names[path_of].format(i=0), (count, sizes["width"])
            shape = tuple(stored[name].get_slice(name).get_shape()) if name in stored else wanted
            if shape != wanted:
                raise UserError(f"{path} gives {name} the shape {wanted}, and its file {shape}.")


def _family_of(directory: pathlib.Path, model: ModelConfig) -> str:
    """The family of a checkpoint, by its model_type, or the configured one if only that can tell.

    Of a checkpoint that writes from left to right, the family that SFT makes of it.
    """
    given, path = model.family, directory / CONFIG
    kind = published_config.read_json(path).get("model_type")
    converted = [name for name, family in FAMILIES.items() if kind and family.source == kind]
    if model.autoregressive:
        if not converted:
            sources = dict.fromkeys(f.source for f in FAMILIES.values() if f.source)
            raise UserError(
                f"{path}: config.model.autoregressive=True converts networks of model_type "
                f"{' or '.join(sources)}, and this one is {kind!r}. If it is a diffusion model, "
                "leave config.model.autoregressive out."
            )
        return given if given in converted else converted[0]
    if given in FAMILIES and FAMILIES[given].named:
        return given
    types = {name: family.marks["model_type"] for name, family in FAMILIES.items()}
    found = [name for name, own in types.items() if own == kind and not FAMILIES[name].named]
    if found:
        return found[0]
    if not converted:
        raise UserError(
            f"{path}: model_type {kind!r} belongs to no known family; use one of: "
            f"{', '.join(types.values())}."
        )
    named = [name for name in converted if FAMILIES[name].named]
    hint = f" If it is one already, set config.model.family={named[0]}." if named else ""
    raise UserError(
        f"{path}: networks of model_type {kind!r} write from left to right. SFT makes a diffusion "
        "model of one: set config.model.autoregressive=True and config.pretrain, as the presets "
        f"*_from_ar do (docs/models.md).{hint}"
    )


def read_weights(directory: pathlib.Path, denoiser: Params, family: str) -> Params:
    """Reads the weights of a checkpoint into arrays of the given dtypes and shardings.

    Args:
      denoiser: params["denoiser"] as shapes with shardings; layers are not split over devices.
        `Quantized` kernels are quantized as they are read, a layer at a time.

    Raises:
      UserError: a file is missing or cut short; tensors are missing, unexpected or of another
        shape, of which the first are listed before any is read; or a tensor has NaN or infinite
        numbers.
    """
    leaves = _by_path(denoiser)
    plan = _tensors(leaves, family)
    with contextlib.ExitStack() as stack:
        stored = _without_copy(directory, _open(directory, stack), plan, family)
        _check_coverage(directory, plan, stored)
        arrays: dict[str, jax.Array | Quantized] = {}
        for tensor in plan:
            leaf = leaves[tensor.path]
            placed = jax.tree.map(lambda x: x.sharding, leaf)
            kernel = placed.values if isinstance(leaf, Quantized) else placed
            spec = kernel.spec if tensor.layer is None else kernel.spec[1:]
            one = _read(stored, tensor, NamedSharding(kernel.mesh, PartitionSpec(*spec)))
            _check_finite(directory, tensor.name, one)
            if tensor.layer is None:
                cast = jax.jit(_transpose_and_cast, static_argnums=(1, 2), out_shardings=placed)
                arrays[tensor.path] = cast(one, tensor.transposed, leaf.dtype).block_until_ready()
                continue
            if tensor.layer == 0:
                zeros = jax.jit(functools.partial(_zeros, leaf), out_shardings=placed)
                arrays[tensor.path] = zeros()
            put = jax.jit(_put_layer, static_argnums=3, donate_argnums=0, out_shardings=placed)
            # Wait for the devices: layers that are read ahead of them would pile up.
            arrays[tensor.path] = jax.block_until_ready(
                put(arrays[tensor.path], one, tensor.layer, tensor.transposed)
            )
    paths, tree = jax.tree_util.tree_flatten_with_path(denoiser, is_leaf=_is_quantized)
    return jax.tree.unflatten(tree, [arrays[_name(path)] for path, _ in paths])


def write(
    directory: pathlib.Path,
    denoiser: Params,
    model: ModelConfig,
    *,
    lineage: Mapping[str, Any],
    source: pathlib.Path | None = None,
    also: Callable[[pathlib.Path], None] | None = None,
    dtype: str = "",
    shard_bytes: int = 2 * 10**9,
) -> None:
    """Writes a checkpoint in the published form; it appears under its name once it is complete.

    Args:
      denoiser: params["denoiser"], whole on this host.
      lineage: origin of the weights, JSON-like, written to lineage.json.
      source: the published checkpoint that training started from; its config.json, tokenizer and
        code are copied.
      also: writes further files to the directory, over those that are copied.
      dtype: dtype of the files; "" for the parameters' own.
      shard_bytes: largest size of a file's tensors, which the host holds at once; a larger tensor
        gets a file of its own.

    Raises:
      UserError: the directory already exists.
    """
    leaves = _by_path(denoiser)
    plan = _tensors(leaves, model.family)
    sizes = {t.name: int(np.prod(t.shape)) * _dtype(leaves[t.path], dtype).itemsize for t in plan}
    shards = _split_into_shards(plan, sizes, shard_bytes)
    with files.new_directory(directory) as temporary:
        file_of: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            values = {t.name: _published_array(leaves[t.path], t, dtype) for t in shard}
            tensor_files.save(values, temporary / file)
            file_of |= {t.name: file for t in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": file_of}
        files.write_json(temporary / INDEX, index)
        config = _config_json(model, leaves, dtype)
        if source is not None:
            for path in sorted(source.iterdir()):
                if path.suffix in _COMPANIONS and path.name not in (INDEX, CONFIG, LINEAGE):
                    shutil.copyfile(path, temporary / path.name)
            published = published_config.read_json(source / CONFIG)
            # transformers 5 writes dtype, and older versions torch_dtype.
            keys = [key for key in ("dtype", "torch_dtype") if key in published] or ["torch_dtype"]
            config = published | dict.fromkeys(keys, config["torch_dtype"])
            if model.autoregressive:
                config = _converted(config, model.family)
        shift = families.logit_shift(model)
        if shift != FAMILIES[model.family].logit_shift:
            config |= {published_config.LOGIT_SHIFT: shift}
        config |= _blocks(model)
        files.write_json(temporary / CONFIG, config)
        files.write_json(temporary / LINEAGE, dict(lineage))
        if also is not None:
            also(temporary)


def fingerprint(directory: pathlib.Path) -> str:
    """SHA-256 of a checkpoint's names and files of weights, in hexadecimal."""
    total = hashlib.sha256()
    for path, file in _files_of_weights(directory):
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {digest}\n".encode())
    return total.hexdigest()


def quick_fingerprint(directory: pathlib.Path) -> str:
    """SHA-256 of names, sizes and 16 MiB of every file of weights, in hexadecimal.

    The parts are spread over a file, so that training any tensor but a very small one shows.
    """
    total = hashlib.sha256()
    for path, file in _files_of_weights(directory):
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        for i in range(_PARTS):
            file.seek(max(0, size - _PART) * i // (_PARTS - 1))
            total.update(file.read(_PART))
    return total.hexdigest()


def _files_of_weights(directory: pathlib.Path) -> Iterator[tuple[pathlib.Path, BinaryIO]]:
    """The files of weights by name, open for reading.  Raises `UserError` if one cannot be read."""
    for path in sorted(directory.glob(f"*{_WEIGHTS}")):
        try:
            with path.open("rb") as file:
                yield path, file
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}. Copy the whole checkpoint again."
            ) from error


def _tensors(leaves: Mapping[str, Any], family: str) -> list[Tensor]:
    """Every published tensor of these parameters; those of stacked blocks layer by layer."""
    plan, names = [], FAMILIES[family].weights
    for path, leaf in leaves.items():
        if path not in names:
            raise UserError(
                f"family {family!r} has no published weights for {path}: check "
                "config.model.positions and config.model.qkv_bias."
            )
        stacked = path.startswith("blocks/")
        shape = tuple(leaf.shape[1:] if stacked else leaf.shape)
        transposed = len(shape) == 2 and path not in NOT_TRANSPOSED
        published = shape[::-1] if transposed else shape
        for layer in range(leaf.shape[0]) if stacked else (None,):
            name = names[path].format(i=layer)
            plan.append(Tensor(name, path, layer, published, transposed))
    return plan


def _open(directory: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Maps each published name to the open file that holds it."""
    single, index = directory / SINGLE, directory / INDEX
    if index.exists():
        files_of = published_config.read_json(index).get("weight_map")
        if not isinstance(files_of, dict) or not all(type(x) is str for x in files_of.values()):
            raise UserError(f"{index}: weight_map must be an object of file names: copy it again.")
        names = sorted(set(files_of.values()))
        if wrong := [x for x in names if not x.endswith(_WEIGHTS) or {"/", "\\", "\0"} & set(x)]:
            raise UserError(
                f"{index} names {wrong[0]!r:.80}: it must name files ...{_WEIGHTS} beside it."
            )
    elif single.is_file():
        files_of, names = {}, [SINGLE]
    else:
        raise UserError(f"{directory} has neither {INDEX} nor {SINGLE}: it is no checkpoint.")
    stored: dict[str, Any] = {}
    for name in names:
        path = directory / name
        if not path.is_file():
            raise UserError(f"{index} names {name}, which is missing: copy the whole checkpoint.")
        try:
            file = stack.enter_context(safetensors.safe_open(path, framework="np"))
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(
                f"cannot read {path}: {error}. Is it cut short? Copy it again."
            ) from error
        stored |= dict.fromkeys(file.keys(), file)
    if absent := [name for name in files_of if name not in stored]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(
            f"{index} names the tensor {absent[0]}{more}, which no file has: copy the whole "
            "checkpoint."
        )
    return stored


def _without_copy(
    directory: pathlib.Path, stored: dict[str, Any], plan: list[Tensor], family: str
) -> dict[str, Any]:
    """Leaves out a head that is a copy of the embedding to which it is tied.

    Raises `UserError` if it is no copy: then config.json, which ties them, contradicts the tensors.
    """
    known = FAMILIES[family]
    embed, head = known.weights["embed"], known.weights["unembed"]
    if head in {tensor.name for tensor in plan} or not {embed, head} <= stored.keys():
        return stored
    ours, theirs = (stored[name].get_slice(name) for name in (embed, head))
    rows = ours.get_shape()[0]
    parts = [slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS)]
    equal = ours.get_shape() == theirs.get_shape() and all(
        np.array_equal(ours[part], theirs[part]) for part in parts
    )
    if not equal:
        raise UserError(
            f"{directory}: {CONFIG} ties the head to the embedding ({known.tying}), but {head} is "
            f"another tensor than {embed}. Correct {known.tying}, or delete the tensor that is "
            "wrong."
        )
    return {name: file for name, file in stored.items() if name != head}


def _check_coverage(directory: pathlib.Path, plan: list[Tensor], stored: Mapping[str, Any]) -> None:
    wanted = {tensor.name: tensor.shape for tensor in plan}
    lines = [f"{name} is missing" for name in wanted if name not in stored]
    lines += [f"{name} is unexpected" for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        view = stored[name].get_slice(name)
        shape, dtype = tuple(view.get_shape()), view.get_dtype()
        if shape != wanted[name]:
            lines.append(f"{name} is {shape}, not {wanted[name]}")
        if dtype not in _DTYPES:
            lines.append(f"{name} has numbers of type {dtype}, not {', '.join(_DTYPES)}")
    if lines:
        named = sorted(lines)[:_NAMED]
        more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        raise UserError(f"{directory} does not fit config.model: {'; '.join(named)}{more}.")


def _read(stored: Mapping[str, Any], tensor: Tensor, sharding: NamedSharding) -> jax.Array:
    """A published tensor as stored, split so that it has this sharding once it is transposed."""
    spec = (*sharding.spec, *[None] * (len(tensor.shape) - len(sharding.spec)))
    spec = PartitionSpec(*(spec[::-1] if tensor.transposed else spec))
    where = NamedSharding(sharding.mesh, spec)
    view = stored[tensor.name].get_slice(tensor.name)
    return jax.make_array_from_callback(tensor.shape, where, lambda index: view[index])


def _check_finite(directory: pathlib.Path, name: str, value: jax.Array) -> None:
    # A network with a NaN writes completions all the same, which look like those of a weak one.
    if broken := int(_not_finite(value)):
        raise UserError(
            f"{directory}: {broken} of the {value.size} numbers of {name} are NaN or infinite. "
            "The file is damaged, or its training diverged: get another copy."
        )


@jax.jit
def _not_finite(value: jax.Array) -> jax.Array:
    return jnp.sum(~jnp.isfinite(value))


# Transposed and cast on the devices: numpy is slow at both, and would hold a copy of each tensor.


def _transpose_and_cast(one: jax.Array, transposed: bool, dtype: Any) -> jax.Array:
    return (one.T if transposed else one).astype(dtype)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _put_layer(stacked: Any, one: jax.Array, layer: Any, transposed: bool) -> Any:
    if isinstance(stacked, Quantized):
        new = quantization.quantize(_transpose_and_cast(one, transposed, jnp.float32), stacked.kind)
    else:
        new = _transpose_and_cast(one, transposed, stacked.dtype)

    def put(all_: jax.Array, part: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(all_, part, layer, 0)

    return jax.tree.map(put, stacked, new)


def _published_array(leaf: Any, tensor: Tensor, dtype: str) -> np.ndarray:
    value = np.asarray(leaf if tensor.layer is None else leaf[tensor.layer])
    return np.ascontiguousarray(value.T if tensor.transposed else value).astype(_dtype(leaf, dtype))


def _split_into_shards(
    plan: list[Tensor], sizes: Mapping[str, int], most: int
) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    room = most
    for tensor in plan:
        if shards[-1] and sizes[tensor.name] > room:
            shards.append([])
            room = most
        shards[-1].append(tensor)
        room -= sizes[tensor.name]
    return shards


def _config_json(model: ModelConfig, leaves: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    family = FAMILIES[model.family]
    values = {key: getattr(model, field) for field, key in family.settings.items()}
    if "positions" in values:
        values["positions"] = model.positions or 0
    if "head_dim" in values:
        values["head_dim"] = model.head_width
    values |= {family.tying: model.tied, family.settings["vocab"]: leaves["embed"].shape[0]}
    return {**family.marks, **values, "torch_dtype": str(_dtype(leaves["embed"], dtype))}


def _blocks(model: ModelConfig) -> dict[str, Any]:
    """Keys about blocks, which the config.json that is copied may lack."""
    known, size = FAMILIES[model.family], model.attention_block
    if size is None:
        return {}
    own = {name: getattr(model, name) for name in published_config.own_block_keys(known)}
    key = known.settings.get("attention_block")
    return own | ({key: size} if key else {})


def _converted(published: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The config.json of a network that writes from left to right, as that of its conversion."""
    known = FAMILIES[family]
    others = {key: value for key, value in published.items() if key != "auto_map"}
    return others | dict(known.marks) | {"architectures": [known.architecture]}


def _dtype(leaf: Any, dtype: str) -> np.dtype:
    return jnp.dtype(dtype or leaf.dtype)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_quantized)
    return {_name(path): x for path, x in leaves}


def _is_quantized(x: Any) -> bool:
    return isinstance(x, Quantized)
