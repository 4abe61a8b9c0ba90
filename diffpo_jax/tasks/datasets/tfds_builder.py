"""What generated data sets share: TensorFlow Datasets builders, and splits by a hash.

TensorFlow itself is not needed.  A data set is written once, to a directory of its own for each
set of settings, and read from there.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import filelock
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import SPLITS

Row = tuple[str, ...]  # the texts of a builder's COLUMNS

_ENOUGH_TRIES = 256  # after so many draws ...
_RARE = 0.01  # ... what fewer than this share of them gave is given up
_EXHAUSTED = 32_768  # candidates in a row with nothing new for a split: it has no more


class GeneratedRows(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Rows of texts that are drawn when the data set is written; subclasses say which.

    The settings are a task's section of the configuration.  It has fields `train_examples`,
    `validation_examples` and `test_examples`.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks beside a builder's code for checksums of its downloads, by way of a package
    # (importlib_resources) that it does not require.  There are none to look for.
    code_path = None

    NAME = ""  # of the task: directories begin with it
    TITLE = ""  # what the rows are, for people
    COLUMNS: Row = ()

    def __init__(self, settings: Any, **kwargs):
        self.settings = settings
        super().__init__(**kwargs)

    def draw(self) -> dict[str, list[Row]]:
        """The rows of every split."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.TITLE}, split by a hash of what is asked.",
            features=tfds.features.FeaturesDict(dict.fromkeys(self.COLUMNS, text)),
            disable_shuffling=True,  # example i is the i-th one yielded
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {s: self._generate_examples(rows) for s, rows in self.draw().items() if rows}

    def _generate_examples(self, rows):
        for i, row in enumerate(rows):
            yield i, dict(zip(self.COLUMNS, row))


def load(cls: type[GeneratedRows], settings: Any, data_dir: pathlib.Path, split: str) -> list[Row]:
    """Reads one split from `data_dir`, writing the data set first if it is not there.

    Raises:
      UserError: a directory that cannot be written, or a damaged file.
    """
    builder = prepare(cls, settings, data_dir)
    count = getattr(settings, f"{split}_examples")
    if not count:
        return []
    try:
        # Records are parsed here: decoding through the features takes five times as long.
        source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        return [_parse(record, cls.COLUMNS) for record in source.__getitems__(range(count))]
    except Exception as error:
        raise UserError(
            f"The data set in {builder.data_dir} cannot be read ({error}). Delete that "
            "directory: it is written again at the next start."
        ) from error


def prepare(cls: type[GeneratedRows], settings: Any, data_dir: pathlib.Path) -> GeneratedRows:
    """Writes the data set to `data_dir / "NAME-<hash of the settings>"` unless it is there.

    One process writes while others wait; the finished directory appears by one rename, so a
    writer that was killed leaves nothing that looks finished, and its leftovers are removed.
    """
    text = json.dumps(dataclasses.asdict(settings) | {"version": str(cls.VERSION)})
    root = data_dir / f"{cls.NAME}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not any(getattr(settings, f"{split}_examples") for split in SPLITS):
        return _builder(cls, settings, root)
    try:
        if _is_ready(builder := _builder(cls, settings, root)):
            return builder
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{root}.lock"):
            # Looked up again: another process may have written it while this one waited.
            if _is_ready(builder := _builder(cls, settings, root)):
                return builder
            if root.exists():
                shutil.rmtree(root)
            logging.info("Generating %s in %s", cls.TITLE, root)
            with _quiet():
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        return builder
    except OSError as error:
        raise UserError(
            f"config.task.data_dir: examples cannot be written to {root} ({error})."
        ) from error


def check_counts(settings: Any, field: str) -> None:
    """Raises `UserError` on a negative number of examples or seed."""
    for name in ("train_examples", "validation_examples", "test_examples", "data_seed"):
        if getattr(settings, name) < 0:
            raise UserError(f"{field}.{name}={getattr(settings, name)} must not be negative.")


def split_of(key: str) -> str:
    """The split that what this names belongs to, on every machine and for good.

    13/16 train, 1/16 validation, 2/16 test.
    """
    bucket = hashlib.sha256(key.encode()).digest()[0] % 16
    if bucket < 2:
        return "test"
    return "validation" if bucket == 2 else "train"


def deal(settings: Any, strata: range, draw_stratum: Callable[..., Any]) -> dict[str, list[Row]]:
    """The rows of every split, in which the strata are equally frequent.

    Example i belongs to stratum `i % len(strata)`, so any prefix is balanced too.

    Args:
      draw_stratum: called with a stratum and how many rows each split wants of it; gives them
        by split.
    """
    counts = {split: getattr(settings, f"{split}_examples") for split in SPLITS}
    n, columns = len(strata), []
    for i, stratum in enumerate(strata):
        wanted = {split: len(range(i, counts[split], n)) for split in SPLITS}
        columns.append(draw_stratum(stratum, wanted))
    return {s: [columns[i % n][s][i // n] for i in range(counts[s])] for s in SPLITS}


def fill(
    wanted: dict[str, int],
    draw_round: Callable[[int], tuple[list[Row], int]],
    key: Callable[[Row], str],
    *,
    prompt: Callable[[Row], str] | None,
    rare: Callable[[int, int], str],
    absent: Callable[[str], str],
) -> dict[str, list[Row]]:
    """The first rows of a stream of candidates, `wanted[split]` for each split.

    Validation and test hold no prompt twice while there are enough different ones; a split that
    runs out repeats those it has in turn.  Training rows are independent draws.  Without `prompt`
    those of validation and test are as well.

    Args:
      draw_round: candidates by number of the round, and how many tries they took.  Seeded by
        round, the stream does not depend on where the last one stopped.
      key: what decides a row's split (`split_of`).
      prompt: what two rows of validation or test must not share.  Only where prompts are about
        equally frequent: else the more rows a split has, the rarer its prompts.
      rare, absent: messages for (candidates, tries) and for a split that has no row at all.

    Raises:
      UserError: with these messages.
    """
    found: dict[str, list[Row]] = {split: [] for split in SPLITS}
    seen: set[str] = set()  # prompts of validation and test
    newest = dict.fromkeys(SPLITS, 0)  # number of candidates when a split last got one
    candidates = tries = rounds = 0
    while any(len(found[s]) < wanted[s] and candidates - newest[s] < _EXHAUSTED for s in SPLITS):
        drawn, tried = draw_round(rounds)
        rounds, tries = rounds + 1, tries + tried
        for row in drawn:
            candidates += 1
            split = split_of(key(row))
            if len(found[split]) < wanted[split] and (prompt is None or prompt(row) not in seen):
                found[split].append(row)
                newest[split] = candidates
                if split != "train" and prompt is not None:
                    seen.add(prompt(row))
        if tries >= _ENOUGH_TRIES and candidates < _RARE * tries:
            raise UserError(rare(candidates, tries))
    for split, rows in found.items():
        if wanted[split] and not rows:
            raise UserError(absent(split))
        for i in range(wanted[split] - len(rows)):
            rows.append(rows[i])
    return found


def _builder(cls: type[GeneratedRows], settings: Any, root: pathlib.Path) -> GeneratedRows:
    return cls(settings, data_dir=root, file_format="array_record")


def _is_ready(builder: GeneratedRows) -> bool:
    """Like `builder.is_prepared()`, without its warnings where nothing is there yet."""
    return (pathlib.Path(builder.data_dir) / "dataset_info.json").exists()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what TFDS prints, and its progress bars where nobody watches them."""
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)


def _parse(record: bytes, columns: Row) -> Row:
    feature = tf_example_pb2.Example.FromString(record).features.feature
    return tuple(feature[name].bytes_list.value[0].decode() for name in columns)
