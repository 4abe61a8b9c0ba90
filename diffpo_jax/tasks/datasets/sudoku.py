"""Generated Sudoku puzzles as a TensorFlow Datasets builder; TensorFlow is not needed.

1. For each number of blanks a stream of candidate puzzles is drawn from the data seed.
2. A hash of a puzzle's clues decides its split: 13/16 train, 1/16 validation, 2/16 test.
   No clues are ever in two splits, whatever the counts and seeds.
3. Each split takes from each stream, in order, as many puzzles as it needs; example i has
   `blanks_min + i % (number of strata)` blanks, so any prefix is balanced too.

A stream depends on the data seed, the size, `unique` and the blanks, not on the counts: a
split that grows keeps its examples in each stratum.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
import sys
from collections.abc import Iterator

import filelock
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from diffpo_jax.config import SudokuConfig
from diffpo_jax.errors import UserError
from diffpo_jax.tasks import sudoku_grid
from diffpo_jax.tasks.task import SPLITS

Puzzle = tuple[str, str]  # clues and solution, as digits

_FIELD = "config.task.sudoku"
_ROUND = 1024  # candidates drawn at a time
_ROUND_CUT = 64  # the same for unique 9x9 puzzles, which cost milliseconds each
_ENOUGH_TRIES = 256  # after so many draws ...
_RARE = 0.01  # ... fewer puzzles than this share of them is given up
_EXHAUSTED = 32_768  # candidates in a row with nothing new for a split: it has no more


class SudokuPuzzles(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Puzzles of one `SudokuConfig`: text features "clues" and "solution"."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks beside a builder's code for checksums of its downloads, by way of a package
    # (importlib_resources) that it does not require.  There are none to look for.
    code_path = None

    def __init__(self, config: SudokuConfig, **kwargs):
        self._sudoku = config
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sudoku puzzles, split by a hash of their clues.",
            features=tfds.features.FeaturesDict({"clues": text, "solution": text}),
            disable_shuffling=True,  # example i is the i-th one yielded
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {s: self._generate_examples(p) for s, p in draw(self._sudoku).items() if p}

    def _generate_examples(self, puzzles):
        for i, (clues, solution) in enumerate(puzzles):
            yield i, {"clues": clues, "solution": solution}


def check_settings(config: SudokuConfig) -> None:
    """Raises `UserError`, naming the field, on settings that no puzzle can meet."""
    if config.size not in sudoku_grid.SIZES:
        raise UserError(f"{_FIELD}.size={config.size} is unknown; use one of: 4, 9.")
    cells = config.size**2
    for name in ("blanks_min", "blanks_max"):
        if not 0 <= getattr(config, name) <= cells:
            raise UserError(
                f"{_FIELD}.{name}={getattr(config, name)} must lie in 0..{cells}: a "
                f"{config.size}x{config.size} grid has {cells} cells."
            )
    if config.blanks_min > config.blanks_max:
        raise UserError(
            f"{_FIELD}.blanks_min={config.blanks_min} is above "
            f"{_FIELD}.blanks_max={config.blanks_max}."
        )
    most = cells - sudoku_grid.FEWEST_UNIQUE_CLUES[config.size]
    if config.unique and config.blanks_max > most:
        raise UserError(
            f"{_FIELD}.blanks_max={config.blanks_max}: with unique=True a {config.size}x"
            f"{config.size} puzzle has at most {most} blanks."
        )
    for name in ("train_examples", "validation_examples", "test_examples", "data_seed"):
        if getattr(config, name) < 0:
            raise UserError(f"{_FIELD}.{name}={getattr(config, name)} must not be negative.")


def split_of(clues: str) -> str:
    """The split that these clues belong to, on every machine and for good."""
    bucket = hashlib.sha256(clues.encode()).digest()[0] % 16
    if bucket < 2:
        return "test"
    return "validation" if bucket == 2 else "train"


def draw(config: SudokuConfig) -> dict[str, list[Puzzle]]:
    """Draws the puzzles of every split.

    The numbers of blanks are equally frequent in a split (counts differ by one at most).
    Validation and test hold no clues twice while there are enough different ones; where a
    stratum runs out (few 4x4 puzzles have 14 or more blanks), the ones it has are repeated
    in turn.  Training puzzles are independent draws.  The solution is the grid the puzzle
    was cut from, which need not be its only completion unless `config.unique`.

    Drawing 30,000 4x4 puzzles takes less than a second.  A unique 9x9 puzzle takes 3 ms with
    40 blanks and 8 ms with 50; above 55 or so blanks they become rare and much slower.

    Raises:
      UserError: settings that `check_settings` refuses, unique puzzles too rare to be
        found, or a number of blanks of which a split has no puzzle at all.
    """
    check_settings(config)
    counts = {split: getattr(config, f"{split}_examples") for split in SPLITS}
    strata = range(config.blanks_min, config.blanks_max + 1)
    columns = []
    for i, blanks in enumerate(strata):
        wanted = {split: len(range(i, counts[split], len(strata))) for split in SPLITS}
        columns.append(_draw_stratum(config, blanks, wanted))
    n = len(strata)
    return {s: [columns[i % n][s][i // n] for i in range(counts[s])] for s in SPLITS}


def load(config: SudokuConfig, data_dir: pathlib.Path, split: str) -> list[Puzzle]:
    """Reads one split from `data_dir`, writing the data set first if it is not there.

    Raises:
      UserError: impossible settings, a directory that cannot be written, or a damaged file.
    """
    builder = prepare(config, data_dir)
    count = getattr(config, f"{split}_examples")
    if not count:
        return []
    try:
        # Records are parsed here: decoding through the features takes five times as long.
        source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        puzzles = [_parse(record) for record in source.__getitems__(range(count))]
    except Exception as error:
        raise UserError(
            f"The data set in {builder.data_dir} cannot be read ({error}). Delete that "
            "directory: it is written again at the next start."
        ) from error
    return puzzles


def prepare(config: SudokuConfig, data_dir: pathlib.Path) -> SudokuPuzzles:
    """Writes the data set to `data_dir / "sudoku-<hash of the settings>"` unless it is there.

    One process writes while others wait; the finished directory appears by one rename, so a
    writer that was killed leaves nothing that looks finished, and its leftovers are removed.
    """
    check_settings(config)
    settings = json.dumps(dataclasses.asdict(config) | {"version": str(SudokuPuzzles.VERSION)})
    root = data_dir / f"sudoku-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    if not any(getattr(config, f"{split}_examples") for split in SPLITS):
        return _builder(config, root)
    try:
        if _is_ready(builder := _builder(config, root)):
            return builder
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{root}.lock"):
            # Looked up again: another process may have written it while this one waited.
            if _is_ready(builder := _builder(config, root)):
                return builder
            if root.exists():
                shutil.rmtree(root)
            logging.info("Generating Sudoku puzzles in %s", root)
            with _quiet():
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        return builder
    except OSError as error:
        raise UserError(
            f"config.task.data_dir: puzzles cannot be written to {root} ({error})."
        ) from error


def _builder(config: SudokuConfig, root: pathlib.Path) -> SudokuPuzzles:
    return SudokuPuzzles(config, data_dir=root, file_format="array_record")


def _is_ready(builder: SudokuPuzzles) -> bool:
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


def _parse(record: bytes) -> Puzzle:
    feature = tf_example_pb2.Example.FromString(record).features.feature
    clues, solution = (feature[name].bytes_list.value[0] for name in ("clues", "solution"))
    return clues.decode(), solution.decode()


def _draw_stratum(
    config: SudokuConfig, blanks: int, wanted: dict[str, int]
) -> dict[str, list[Puzzle]]:
    """The first puzzles with this number of blanks, `wanted[split]` for each split."""
    found: dict[str, list[Puzzle]] = {split: [] for split in SPLITS}
    seen: set[str] = set()  # clues of validation and test
    newest = dict.fromkeys(SPLITS, 0)  # number of candidates when a split last got one
    candidates = tries = rounds = 0
    while _missing(found, wanted, candidates, newest):
        # Seeded by round, so that a stream does not depend on where the last one stopped.
        rng = np.random.default_rng(
            [config.data_seed, config.size, int(config.unique), blanks, rounds]
        )
        drawn, tried = _draw_candidates(config, blanks, rng)
        rounds, tries = rounds + 1, tries + tried
        for clues, solution in drawn:
            candidates += 1
            split = split_of(clues)
            if len(found[split]) < wanted[split] and clues not in seen:
                found[split].append((clues, solution))
                newest[split] = candidates
                if split != "train":
                    seen.add(clues)
        if tries >= _ENOUGH_TRIES and candidates < _RARE * tries:
            raise UserError(
                f"{_FIELD}.blanks_max={config.blanks_max}: only {candidates} of {tries} tries "
                f"gave a puzzle with {blanks} blanks and a unique completion. Lower blanks_max."
            )
    for split, puzzles in found.items():
        if wanted[split] and not puzzles:
            raise UserError(
                f"{_FIELD}.blanks_min..blanks_max={config.blanks_min}..{config.blanks_max}: "
                f"the few puzzles with {blanks} blanks are all in other splits than {split}."
            )
        for i in range(wanted[split] - len(puzzles)):
            puzzles.append(puzzles[i])
    return found


def _missing(
    found: dict[str, list[Puzzle]], wanted: dict[str, int], candidates: int, newest: dict[str, int]
) -> bool:
    """Whether some split wants more and may still get it."""
    return any(len(found[s]) < wanted[s] and candidates - newest[s] < _EXHAUSTED for s in SPLITS)


def _draw_candidates(
    config: SudokuConfig, blanks: int, rng: np.random.Generator
) -> tuple[list[Puzzle], int]:
    """Some puzzles with this number of blanks, and how many tries they took."""
    by_cutting = config.unique and config.size == 9
    tries = _ROUND_CUT if by_cutting else _ROUND
    grids = sudoku_grid.random_grids(config.size, tries, rng)
    if by_cutting:
        cuts = [sudoku_grid.cut_unique(grid, blanks, rng) for grid in grids]
        kept = np.array([clues is not None for clues in cuts])
        if not kept.any():
            return [], tries
        clues = np.stack([clues for clues in cuts if clues is not None])
    else:
        clues = sudoku_grid.cut(grids, blanks, rng)
        kept = np.ones(tries, bool)
        if config.unique:
            kept = sudoku_grid.count_completions(clues, 2) == 1
            clues = clues[kept]
    return list(zip(sudoku_grid.to_text(clues), sudoku_grid.to_text(grids[kept]))), tries
