import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax import tasks
from diffpo_jax.config import PromptConfig, SudokuConfig, TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import sudoku
from diffpo_jax.tasks.d1 import sudoku as d1_sudoku
from diffpo_jax.tasks.datasets import sudoku_grid
from diffpo_jax.tasks.datasets.sudoku import SudokuPuzzles
from diffpo_jax.tasks.task import Example, Layout

SOLVED = "1234341221434321"
# Rows 1 and 3 begin with two empty cells: 1 2 and 2 1, which may be exchanged.
CLUES = "0034341200434321"
OTHER = "2134341212434321"  # the completion that is not stored
SMALL = SudokuConfig(train_examples=60, validation_examples=11, test_examples=25)


def example(clues=CLUES, solution=SOLVED):
    return Example("id", clues, solution, {"clues": clues, "solution": solution})


def make(tmp_path, **settings):
    return tasks.make_task(TaskConfig(sudoku=SMALL, **settings), tmp_path / "data")


def write(tmp_path, *rows, name="puzzles.csv", header="Puzzle,Solution"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make(tmp_path_factory.mktemp("task"))


def test_d1s_evaluation_reads_an_answer_that_an_end_token_closes(tmp_path):
    puzzle = Example("id", "?", "", {"clues": "0234341221434321", "solution": "1234341221434321"})
    task = make(tmp_path, protocol="d1", prompt=PromptConfig(answer="tags"))
    reward = task.reward(puzzle, "<answer>\n1234341221434321<|eot_id|><|endoftext|>")
    assert reward.correct
    assert reward.parts == {"valid_grid": 0.0, "cell_fraction": 0.0}  # no tag is closed


@pytest.mark.parametrize(
    ("completion", "valid", "fraction", "parsed"),
    [
        (SOLVED, 1.0, 1.0, True),
        (OTHER, 1.0, 0.0, True),  # right, although another grid is stored
        ("1234341212434321", 0.0, 0.5, True),  # two of the four empty cells
        ("1034341221434321", 0.0, 0.75, True),  # a cell left empty
        (CLUES, 0.0, 0.0, True),
        ("4321341221431234", 0.0, 0.5, True),  # clues changed; two empty cells right
        ("1243342143122134", 0.0, 0.5, True),  # a valid grid of another puzzle
        ("123434122143432", 0.0, 1.0, False),  # the missing cell is a clue
        (SOLVED + "1", 0.0, 1.0, False),  # one digit too many
        ("1234", 0.0, 0.5, False),
        ("", 0.0, 0.0, False),
        ("1234 3412\n2143\t4321\n", 1.0, 1.0, True),
        (f"The grid is {SOLVED}.", 1.0, 1.0, True),
        (f"{'4' * 16}, no: {SOLVED}", 1.0, 0.0, True),  # the last grid; the first 16 digits
        (f"{SOLVED} / 12", 1.0, 1.0, True),  # the last run of 16 digits
        ("\uff11" * 16, 0.0, 0.0, False),  # a digit, but not one of 0-9
    ],
)
def test_rewards_by_hand(task, completion, valid, fraction, parsed):
    reward = task.reward(example(), completion)
    assert reward.parts == {"valid_grid": valid, "cell_fraction": fraction}
    assert reward.correct == (valid == 1.0)
    assert reward.parsed == parsed
    assert reward.total == valid


def test_a_grid_must_keep_the_clues(task):
    assert task.reward(example("1" + "0" * 15), SOLVED).correct
    assert not task.reward(example("2" + "0" * 15), SOLVED).correct


def test_a_puzzle_without_empty_cells(task):
    reward = task.reward(example(SOLVED), SOLVED)
    assert reward.correct
    assert reward.parts == {"valid_grid": 1.0, "cell_fraction": 0.0}


def test_the_configured_reward_is_the_total(tmp_path):
    task = make(tmp_path, reward="cell_fraction")
    assert task.reward(example(), OTHER).total == 0.0
    assert task.reward(example(), OTHER).correct
    assert task.reward(example(), "1234").total == 0.5


@given(st.text(max_size=40) | st.text("0123456789 \n", max_size=40))
def test_any_text_is_graded(task, completion):
    reward = task.reward(example(), completion)
    assert 0.0 <= reward.total <= task.reward_max
    assert reward.parsed or not reward.correct


@given(
    st.text("12345678", min_size=16, max_size=16) | st.sampled_from(["5678785665878765", SOLVED])
)
def test_valid_grid_agrees_with_the_grid_module(task, text):
    (valid,) = sudoku_grid.is_valid_grid(sudoku_grid.from_text([text]))
    assert task.reward(example("0" * 16), text).correct == valid


def test_all_288_grids_are_right_and_wrong_if_two_cells_are_exchanged(task):
    for text in sudoku_grid.to_text(sudoku_grid.all_grids_4x4()):
        assert task.reward(example("0" * 16), text).correct
        assert not task.reward(example("0" * 16), text[1] + text[0] + text[2:]).correct


def test_9x9_grids_are_graded():
    grids = sudoku_grid.random_grids(9, 5, np.random.default_rng(0))
    task = tasks.make_task(
        TaskConfig(sudoku=SudokuConfig(size=9, blanks_min=30, blanks_max=40)), None
    )
    for text in sudoku_grid.to_text(grids):
        clues = "0" * 9 + text[9:]
        assert task.reward(example(clues, text), text).parts == {
            "valid_grid": 1.0,
            "cell_fraction": 1.0,
        }
        assert not task.reward(example(clues, text), text[1] + text[0] + text[2:]).correct


def test_cell_accuracy_sums_cells_before_dividing():
    wide = example("0" * 12 + "4321")
    # 2 of 4 and 12 of 12, not the mean of one half and one.
    assert d1_sudoku.cell_accuracy([example(), wide], ["1234", SOLVED]) == 14 / 16
    assert d1_sudoku.cell_accuracy([example(SOLVED)], [SOLVED]) == 0.0
    assert d1_sudoku.cell_accuracy([], []) == 0.0


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_generated_examples(task, split):
    examples = task.examples(split)
    assert len(examples) == getattr(SMALL, f"{split}_examples")
    for i, (item, (clues, solution)) in enumerate(zip(examples, SudokuPuzzles.draw(SMALL)[split])):
        assert (item.prompt, item.target) == (clues, solution)
        assert item.meta == {"clues": clues, "solution": solution}
        assert item.id.startswith(f"sudoku-4x4/{split}/{i}-")
        assert task.difficulty(item) == clues.count("0")
        assert task.reward(item, item.target).total == 1.0
    assert len({item.id for item in examples}) == len(examples)
    assert json.loads(json.dumps(examples[0].meta)) == examples[0].meta


def test_examples_are_a_sequence(task):
    examples = task.examples("test")
    assert examples[-1] == examples[24]
    assert examples[np.int64(3)] == examples[3]
    assert [e.id for e in examples[5:9]] == [examples[i].id for i in range(5, 9)]
    assert examples[5:][1:][0] == examples[6]
    with pytest.raises(IndexError):
        examples[25]
    with pytest.raises(ValueError, match="'dev'"):
        task.examples("dev")


def test_generated_splits_do_not_overlap(task):
    assert task.overlap() == 0
    assert task.overlap("validation") == 0
    assert task.overlap("train") == len({e.prompt for e in task.examples("train")})


def test_files_replace_splits(tmp_path):
    train = write(tmp_path, f"{CLUES},{SOLVED}", f"{'0' * 16},{SOLVED}", name="train.csv")
    test = write(tmp_path, f"{CLUES},{OTHER}", f"{SOLVED},{SOLVED}", name="test.csv")
    task = make(tmp_path, train_file=train, test_file=test)
    assert [e.prompt for e in task.examples("train")] == [CLUES, "0" * 16]
    assert [e.target for e in task.examples("test")] == [OTHER, SOLVED]
    assert task.overlap() == 1
    assert not (tmp_path / "data").exists()  # nothing has been generated so far
    assert len(task.examples("validation")) == 11


def test_csv_files_may_have_other_columns_and_line_ends(tmp_path):
    path = tmp_path / "puzzles.csv"
    # A byte-order mark, other columns, another order, quotes, blank lines, CRLF.
    path.write_bytes(f'\ufeffid,Solution,Puzzle\r\n1,"{SOLVED}", {CLUES}\r\n\r\n'.encode())
    assert sudoku.read_csv(str(path), "field", 4) == [(CLUES, SOLVED)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{CLUES[1:]},{SOLVED}", "Puzzle has 15 characters instead of 16"),
        (f"{CLUES},{SOLVED}1", "Solution has 17 characters instead of 16"),
        (f"{CLUES}", "Solution has 0 characters instead of 16"),
        (f".{CLUES[1:]},{SOLVED}", r"Puzzle has '\.'; only the digits 0 to 4"),
        (f"{CLUES},{SOLVED[:-1]}x", "Solution has 'x'; only the digits 1 to 4"),
        (f"{CLUES[:-1]}5,{SOLVED}", "Puzzle has '5'; only the digits 0 to 4"),
        (f"{CLUES},{CLUES}", "Solution has '0'; only the digits 1 to 4"),
        (f"{'1001' + '0' * 12},{SOLVED}", "Puzzle has a digit twice in a row, column or box"),
        (f"{CLUES},{'1234' * 4}", "Solution is not a valid grid"),
        (f"{'2' + '0' * 15},{SOLVED}", "Solution changes a digit of Puzzle"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_faulty_rows_are_refused_with_their_line(tmp_path, row, message, split):
    path = write(tmp_path, f"{CLUES},{SOLVED}", row, f"{CLUES},{SOLVED}")
    with pytest.raises(UserError, match=f"config.task.{split}_file=.*csv: line 3: {message}"):
        make(tmp_path, **{f"{split}_file": path})


def test_the_first_faulty_row_is_reported(tmp_path):
    bad = f"{CLUES},{'1234' * 4}"
    path = write(tmp_path, f"{CLUES},{SOLVED}", bad, f"{'2' + '0' * 15},{SOLVED}", bad)
    with pytest.raises(UserError, match="line 3: Solution is not a valid grid"):
        make(tmp_path, test_file=path)


def test_faulty_files_are_refused(tmp_path):
    def message(path):
        with pytest.raises(UserError) as error:
            make(tmp_path, test_file=str(path))
        return str(error.value)

    assert "no such file" in message(tmp_path / "missing.csv")
    assert "cannot be read" in message(tmp_path)
    assert "line 1 has no column Solution" in message(
        write(tmp_path, "1,1", header="Puzzle,solution")
    )
    assert "has no puzzle" in message(write(tmp_path))
    (tmp_path / "empty.csv").write_text("")
    assert "has no puzzle" in message(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes(b"Puzzle,Solution\n\xff\xfe,1\n")
    assert "cannot be read" in message(tmp_path / "latin.csv")
    nine = write(tmp_path, f"{'0' * 81},{'1' * 81}")
    assert "line 2: Puzzle has 81 characters instead of 16" in message(nine)


def test_faulty_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"reward='cells'.*valid_grid, cell_fraction"):
        make(tmp_path, reward="cells")
    with pytest.raises(UserError, match=r"config\.task\.name='chess'.*sudoku"):
        tasks.make_task(TaskConfig(name="chess"), tmp_path)
    with pytest.raises(UserError, match=r"config\.task\.sudoku\.blanks_max=99"):
        tasks.make_task(TaskConfig(sudoku=SudokuConfig(blanks_max=99)), tmp_path)


def test_importing_tasks_imports_neither_jax_nor_tensorflow_datasets():
    code = (
        "import sys, diffpo_jax.tasks; "
        "print([m for m in ('jax', 'flax', 'tensorflow_datasets') if m in sys.modules])"
    )
    root = tasks.__path__[0] + "/../.."
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_prompts_follow_the_template(tmp_path):
    prompt = PromptConfig(template="words", answer="tags", chat=True, prefill="<answer>")
    item = make(tmp_path, prompt=prompt).examples("test")[0]
    clues = item.meta["clues"]
    assert f"\n{clues}\n" in item.prompt and "2x2 box" in item.prompt
    assert item.prompt.endswith("between <answer> and </answer>.")
    assert item.target == f"<answer>{item.meta['solution']}</answer>"
    assert item.chat and item.prefill == "<answer>"
    bare = make(tmp_path).examples("test")[0]
    assert (bare.prompt, bare.id, bare.chat) == (clues, item.id, False)


@pytest.mark.parametrize(
    ("completion", "kind", "correct", "fraction"),
    [
        (f"<answer>{SOLVED}</answer>", "tags", True, 1.0),
        (f"1111 <answer>{SOLVED[:8]}\n{SOLVED[8:]}</answer> 22", "tags", True, 1.0),
        (rf"1111 \boxed{{{SOLVED}}}", "tags", True, 1.0),
        (rf"<answer>1</answer> \boxed{{{OTHER}}}", "boxed", True, 0.0),
        (SOLVED, "tags", False, 0.0),  # not marked
        (f"<answer>{SOLVED}", "tags", False, 0.0),
    ],
)
def test_answers_are_read_in_the_configured_place(tmp_path, completion, kind, correct, fraction):
    reward = make(tmp_path, prompt=PromptConfig(answer=kind)).reward(example(), completion)
    assert reward.correct == reward.parsed == correct
    assert reward.parts["cell_fraction"] == fraction


@pytest.mark.parametrize(
    ("completion", "trained", "evaluated"),
    [
        (f"<answer>\n{SOLVED}\n</answer>", 1.0, 1.0),
        (f"<answer>{OTHER}</answer>", 0.0, 0.0),  # right, but not the stored grid
        (f"<answer>12{'9' * 14}</answer>", 0.5, 0.5),  # clues may be changed
        ("<answer>12 34</answer>", 0.5, 0.5),  # too short: filled up with 0
        (f"<answer>{SOLVED}777</answer>", 1.0, 1.0),  # too long: cut off
        (f"<answer>The grid: {SOLVED}</answer>", 1.0, 0.0),  # evaluation keeps the letters
        (f"<answer>so\n```\n{SOLVED}\n```</answer>", 1.0, 1.0),
        (f"<answer>1</answer><answer>{SOLVED}</answer>", 1.0, 0.25),  # the last, the first
        (f"<answer> </answer> {SOLVED}<|eot_id|>", 0.0, 1.0),  # the text after an empty tag
        (f"{SOLVED} </answer>", 0.0, 1.0),
        (f"It is {SOLVED}.", 0.0, 1.0),
        (f"It is {SOLVED}1.", 0.0, 0.0),
        (f"<answer>{SOLVED}<|endoftext|>", 0.0, 1.0),
        (f"<answer>{SOLVED}", 0.0, 1.0),  # as a word of 16 digits
        ("no idea", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_d1s_rewards_and_verdicts_by_hand(tmp_path, completion, trained, evaluated):
    task = make(tmp_path, protocol="d1", prompt=PromptConfig(answer="tags"))
    reward = task.reward(example(), completion)
    assert reward.total == reward.parts["cell_fraction"] == trained
    assert reward.correct == (evaluated == 1.0)
    assert task.scores([example()], [completion]) == {"cell_accuracy": evaluated}


def test_d1_without_tags_reads_the_whole_text(tmp_path):
    task = make(tmp_path, protocol="d1")
    assert task.reward(example(), "12, then 34").total == 0.5
    assert task.reward(example(), SOLVED).correct
    assert not task.reward(example(SOLVED), SOLVED).correct  # d1 needs an empty cell
    assert make(tmp_path, protocol="d1", reward="valid_grid").reward(example(), OTHER).total == 1.0


def test_d1_cells_are_summed_before_dividing(tmp_path):
    task = make(tmp_path, protocol="d1")
    wide = example("0" * 12 + "4321")
    completions = [f"<answer>1234{'0' * 12}</answer>", f"<answer>{SOLVED}</answer>"]
    assert task.scores([example(), wide], completions) == {"cell_accuracy": 14 / 16}


PIECES = ["<answer>", "</answer>", "```", "`", "12", "1" * 16, "1" * 15, " ", "\n", "a", "\u0661"]


@given(
    st.lists(st.sampled_from([*PIECES, "<|eot_id|>", "<|endoftext|>"]), max_size=14).map("".join)
)
def test_d1s_grids_are_those_of_its_regular_expressions(text):
    end = r"<\|eot_id\|>|<\|endoftext\|>"
    expressions = [
        r"<answer>.*?```\s*([\d\s]+)```",
        rf"<answer>(.*?)(?:{end}|</answer>)",
        rf"</answer>\s*(.*?)(?:{end}|$)",
        r".*?(\d{16})\s*</answer>",
        r"\b(\d{16})\b",
    ]
    found = (re.search(expression, text, re.DOTALL) for expression in expressions)
    expected = next((m[1] for m in found if m and m[1].strip()), "")
    assert d1_sudoku.evaluation_grid(text, "tags", 16) == re.sub(r"\s", "", expected)


@given(st.text(max_size=60), st.sampled_from(["text", "tags", "boxed"]))
def test_any_text_is_graded_by_d1(text, kind):
    task = tasks.make_task(
        TaskConfig(sudoku=SMALL, protocol="d1", prompt=PromptConfig(answer=kind)), None
    )
    reward = task.reward(example(), text)
    assert 0.0 <= reward.total <= 1.0
    assert task.scores([example()], [text])["cell_accuracy"] <= 1.0


PUZZLE = "1034341200434321"


@pytest.mark.parametrize(
    ("completion", "wrong", "verdict"),
    [
        ("1234341221434321", [], "Every row, column and box has each digit once."),
        ("1434341221434321", [1], "1 cell breaks a rule of the puzzle."),  # 4 is in its row
        ("1234341221434322", [15], "1 cell breaks a rule of the puzzle."),  # a clue is changed
        ("1234341201434321", [8], "1 cell breaks a rule of the puzzle."),  # 0 is no digit here
        ("1234341221", [], ""),
        ("1", [], ""),
    ],
)
def test_a_grid_is_laid_out_as_a_board_with_its_faults(completion, wrong, verdict):
    given = [0, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15]
    words = f"Solve this, row by row:\n{PUZZLE}\nas 16 digits."
    for prompt in (PUZZLE, words):
        found = sudoku.Sudoku.lay_out(prompt, completion)
        assert found == Layout(4, 2, given, wrong, verdict)


def test_two_equal_digits_in_a_unit_are_both_wrong():
    assert sudoku.Sudoku.lay_out("0" * 16, "1100")[3] == [0, 1, 2, 3]


@pytest.mark.parametrize("completion", ["12a4", "1" * 17, "<answer>1</answer>", "²"])
def test_what_is_no_grid_is_laid_out_as_text(completion):
    assert sudoku.Sudoku.lay_out(PUZZLE, completion) == Layout()
    assert sudoku.Sudoku.lay_out("no puzzle", completion) == Layout()


def test_a_9x9_grid_has_boxes_of_three():
    assert sudoku.Sudoku.lay_out("0" * 81, "1")[:2] == (9, 3)


@given(st.text(), st.text())
def test_any_texts_are_laid_out(prompt, completion):
    for task in tasks.TASKS.values():
        assert isinstance(task.lay_out(prompt, completion), Layout)


@pytest.mark.parametrize(
    ("text", "size", "fault"),
    [
        ("0431034232004123", 4, ""),
        ("0" * 81, 9, ""),
        ("04310342320041", 4, "has 14 characters: a 4x4 board needs 16 digits, 1 to 4, and 0 for"),
        ("04310342320041230", 4, "has 17 characters: a 4x4 board"),
        ("0431034232004123", 9, "has 16 characters: a 9x9 board needs 81 digits, 1 to 9"),
        ("0431034232004125", 4, "has 16 characters, with '5' among them: a 4x4 board"),
        ("0431 0342 3200 4123", 4, "has 19 characters, with ' ' among them"),
        ("043103423200412²", 4, "with '²' among them"),
        ("0431034232004123\n", 4, "has 17 characters"),
        ("", 4, "has 0 characters"),
    ],
)
def test_a_typed_puzzle_has_a_digit_for_each_cell(text, size, fault):
    found = sudoku.Sudoku.question_fault(text, TaskConfig(sudoku=SudokuConfig(size=size)))
    assert fault in found and bool(fault) == bool(found)
