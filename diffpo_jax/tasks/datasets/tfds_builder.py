"""The base class of generated data sets, a TensorFlow Datasets builder, and splits by a hash.

TensorFlow itself is not needed.  Each combination of settings has a directory of its own: the data
set is written to it once, and read from it afterwards.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import filelock
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from diffpo_jax.system import durable
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import SPLITS

Row = tuple[str, ...]  # the texts of a builder's COLUMNS

# Drawing fails if, after so many tries, fewer than this share of them gave a candidate.
_ENOUGH_TRIES, _RARE = 256, 0.01
_EXHAUSTED = 32_768  # a split that got none of so many candidates in a row gets no more


class GeneratedRows(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Rows of texts, drawn when the data set is written.  Subclasses draw them.

    The settings are a task's section of the configuration, with the fields `train_examples`,
    `validation_examples`, `test_examples` and `data_seed`.

    Attributes:
      NAME: the name of the task, with which the directories begin.
      TITLE: the name of the rows, for people.
      COLUMNS: the names of a row's texts.
      DISTINCT: whether validation and test repeat a key only if they run out of keys.  Sensible
        if keys are about equally frequent: otherwise, the more rows, the rarer their keys.
      RARE, ABSENT: messages if too few tries gave a row, or if a split has no row of a stratum.
        Their fields are s (the settings), stratum, and candidates and tries, or split.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS searches beside a builder's code for checksums of downloads, through a package
    # (importlib_resources) that it does not require.  There are none.
    code_path = None

    NAME = TITLE = RARE = ABSENT = ""
    COLUMNS: Row = ()
    DISTINCT = False

    def __init__(self, settings: Any, **kwargs):
        self.settings = settings
        super().__init__(**kwargs)

    @staticmethod
    def check(settings: Any) -> None:
        """Raises `UserError`, naming the field, on settings that no row can meet."""
        raise NotImplementedError

    @staticmethod
    def key(row: Row) -> str:
        """The part of a row that decides its split; rows of equal keys are one question."""
        raise NotImplementedError

    @staticmethod
    def strata(settings: Any) -> range:
        """The levels, such as numbers of blanks, that are equally frequent among the rows."""
        raise NotImplementedError

    @staticmethod
    def draw_round(settings: Any, stratum: int, number: int) -> tuple[list[Row], int]:
        """Candidates of a stratum, and how many tries they took.

        They depend only on the arguments, so a split that grows keeps its rows.
        """
        raise NotImplementedError

    @classmethod
    def draw(cls, settings: Any) -> dict[str, list[Row]]:
        """Draws the rows of every split.

        Example i belongs to stratum `i % len(strata)`, so every prefix is balanced.

        Raises:
          UserError: settings that `check` refuses, rows that are too rare, or a split without any
            row of a stratum.
        """
        cls.check(settings)
        counts = {split: getattr(settings, f"{split}_examples") for split in SPLITS}
        strata = cls.strata(settings)
        n, columns = len(strata), []
        for i, stratum in enumerate(strata):
            wanted = {split: len(range(i, counts[split], n)) for split in SPLITS}
            columns.append(cls._draw_stratum(settings, stratum, wanted))
        return {s: [columns[i % n][s][i // n] for i in range(counts[s])] for s in SPLITS}

    @classmethod
    def _draw_stratum(
        cls, settings: Any, stratum: int, wanted: dict[str, int]
    ) -> dict[str, list[Row]]:
        """The first candidates of a stratum, `wanted[split]` for each split.

        Training rows are independent draws.  A split that runs out repeats its rows in turn.
        """
        rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
        seen: set[str] = set()  # keys of validation and test
        newest = dict.fromkeys(SPLITS, 0)  # number of candidates when a split last got one of them
        candidates = tries = number = 0
        while any(len(rows[s]) < wanted[s] and candidates - newest[s] < _EXHAUSTED for s in SPLITS):
            drawn, tried = cls.draw_round(settings, stratum, number)
            number, tries = number + 1, tries + tried
            for row in drawn:
                candidates += 1
                split = split_of(key := cls.key(row))
                if len(rows[split]) < wanted[split] and key not in seen:
                    rows[split].append(row)
                    newest[split] = candidates
                    if split != "train" and cls.DISTINCT:
                        seen.add(key)
            if tries >= _ENOUGH_TRIES and candidates < _RARE * tries:
                values = {"s": settings, "stratum": stratum}
                raise UserError(cls.RARE.format(**values, candidates=candidates, tries=tries))
        for split, found in rows.items():
            if wanted[split] and not found:
                raise UserError(cls.ABSENT.format(s=settings, stratum=stratum, split=split))
            for i in range(wanted[split] - len(found)):
                found.append(found[i])
        return rows

    @classmethod
    def load(cls, settings: Any, data_dir: pathlib.Path, split: str) -> list[Row]:
        """Reads one split from `data_dir`, after writing the data set if it does not exist.

        Raises:
          UserError: a directory that cannot be written, a damaged file, or like `draw`.
        """
        count = getattr(settings, f"{split}_examples")
        if not count:
            return []
        builder = cls.prepare(settings, data_dir)
        try:
            # Records are parsed here: decoding through the features takes five times as long.
            source = builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
            return [_parse(record, cls.COLUMNS) for record in source.__getitems__(range(count))]
        except Exception as error:
            raise _damaged(builder.data_dir, error) from error

    @classmethod
    def prepare(cls, settings: Any, data_dir: pathlib.Path) -> "GeneratedRows":
        """Writes the data set to `data_dir / "NAME-<hash of the settings>"` unless it exists.

        One process writes while others wait.  The finished directory is synced and then renamed, so
        a killed writer, or a power cut, leaves nothing that looks finished, and what it leaves is
        removed.
        """
        cls.check(settings)
        text = json.dumps(dataclasses.asdict(settings) | {"version": str(cls.VERSION)})
        root = data_dir / f"{cls.NAME}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        try:
            if _is_ready(builder := cls._at(settings, root)):
                return builder
            durable.make_directory(data_dir)
            with filelock.FileLock(f"{root}.lock"):
                # Again: another process may have written it while this one waited.
                if _is_ready(builder := cls._at(settings, root)):
                    return builder
                for left in (root, unsynced := root.with_name(root.name + ".unsynced")):
                    if left.exists():
                        shutil.rmtree(left)
                logging.info("Generating %s in %s", cls.TITLE, root)
                with _quiet():
                    cls._at(settings, unsynced).download_and_prepare(
                        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                    )
                durable.sync_tree(unsynced)
                durable.rename(unsynced, root)
            return cls._at(settings, root)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "write() failed" not in str(error):
                raise  # array_record has no error of its own for a full disk
            reason = re.sub(r".*write\(\) failed: ([^;]*);.*", r"\1", str(error), flags=re.DOTALL)
            raise UserError(
                f"config.task.data_dir: examples cannot be written to {root} ({reason})."
            ) from error

    @classmethod
    def _at(cls, settings: Any, root: pathlib.Path) -> "GeneratedRows":
        try:
            return cls(settings, data_dir=root, file_format="array_record")
        except OSError:
            raise
        except Exception as error:  # of whichever library reads what is damaged
            raise _damaged(root, error) from error

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
        drawn = self.draw(self.settings)
        return {split: self._generate_examples(rows) for split, rows in drawn.items() if rows}

    def _generate_examples(self, rows):
        for i, row in enumerate(rows):
            yield i, dict(zip(self.COLUMNS, row))


def check_counts(settings: Any, field: str) -> None:
    """Raises `UserError` on a negative number of examples or seed."""
    for name in ("train_examples", "validation_examples", "test_examples", "data_seed"):
        if getattr(settings, name) < 0:
            raise UserError(f"{field}.{name}={getattr(settings, name)} must not be negative.")


def split_of(key: str) -> str:
    """The split of a key, the same on every machine: 13/16 train, 1/16 validation, 2/16 test."""
    bucket = hashlib.sha256(key.encode()).digest()[0] % 16
    if bucket < 2:
        return "test"
    return "validation" if bucket == 2 else "train"


def _damaged(directory: Any, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [repr(error)])[0]
    return UserError(
        f"The data set in {directory} cannot be read ({reason}). Delete that directory; the next "
        "start writes it again."
    )


def _is_ready(builder: GeneratedRows) -> bool:
    """Like `builder.is_prepared()`, but without its warnings if nothing exists yet."""
    return (pathlib.Path(builder.data_dir) / "dataset_info.json").exists()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the output of TFDS, and its progress bars unless stderr is a terminal."""
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)


def _parse(record: bytes, columns: Row) -> Row:
    feature = tf_example_pb2.Example.FromString(record).features.feature
    return tuple(feature[name].bytes_list.value[0].decode() for name in columns)
