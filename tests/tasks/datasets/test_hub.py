import csv
import json
import os

import datasets
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from diffpo_jax.system import reading
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import hub

FIELD = "config.task.train_file"
ROWS = [{"question": "1+1?", "answer": "two\n#### 2"}, {"question": "½ of 4?", "answer": "#### 2"}]


def load(source, split="train", columns=("question", "answer")):
    return hub.load(str(source), FIELD, split=split, columns=columns)


def values(rows):
    return [row.values for row in rows]


def write(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the hub is used for a file")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


@pytest.mark.parametrize("suffix", hub.SUFFIXES)
def test_files_of_every_format_are_read(tmp_path, suffix):
    assert values(load(write(tmp_path / f"rows{suffix}"))) == ROWS


def test_json_files_may_hold_lines_or_one_object(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert values(load(path)) == ROWS
    path.write_text(json.dumps(ROWS[0]))
    assert values(load(path)) == ROWS[:1]


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\ufeff\n" + json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]))
    assert values(load(path)) == ROWS
    assert [row.where for row in load(path)] == [f"{FIELD}={path}: line {i}" for i in (2, 4)]


def test_all_files_of_a_directory_are_read(tmp_path):
    write(tmp_path / "b.jsonl", ROWS[:1])
    write(tmp_path / "a.csv", ROWS[1:])
    (tmp_path / "README.md").write_text("no data")
    assert values(load(tmp_path)) == ROWS[::-1]


def test_files_named_after_splits_are_read_by_split(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", ROWS[:1])
    write(tmp_path / "test-00000-of-00001.parquet", ROWS[1:])
    assert values(load(tmp_path, "train")) == ROWS[:1]
    assert values(load(tmp_path, "test")) == ROWS[1:]
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="without test files"):
        load(tmp_path, "test")


def message_of(source, **settings):
    with pytest.raises(UserError) as caught:
        load(source, **settings)
    message = str(caught.value)
    assert message.startswith(f"{FIELD}={source}"), message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"question": "1", "answer": "2"}\n{"question": \n', "line 2 is not JSON"),
        ("a.jsonl", '{"question": "1", "answer": "2"}\n[1]\n', "line 2 must be an object"),
        (
            "a.jsonl",
            '\n{"question": "1"}\n',
            "line 2 has no column 'answer'",
        ),
        ("a.jsonl", "{}", "line 1 has no column 'question'. Its columns: none"),
        (
            "a.jsonl",
            '{"question": "1", "answer": null}',
            "'answer' must be text; it is None",
        ),
        (
            "a.jsonl",
            '{"question": " ", "answer": "2"}',
            "'question' must be text; it is ' '",
        ),
        ("a.jsonl", "", "has no row"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON: RecursionError"),
        ("a.json", "[]", "has no row"),
        ("a.json", "3", "must be a list of objects"),
        ("a.json", '[{"question": "1",\n "answer"}]', "line 2 is not JSON"),
        ("a.json", '[{"question": "1"}]', "row 1 has no column 'answer'"),
        ("a.csv", "question,answer\n", "has no row"),
        ("a.csv", "", "has no row"),
        ("a.csv", "question\n1\n", "line 2 has no column 'answer'"),
        ("a.csv", "question,answer\n1,2\n3\n", "line 3: column 'answer' must be text"),
        ("a.parquet", "nothing of the kind", "cannot be read as Parquet"),
        ("a.txt", "1", "name must end in one of"),
    ],
)
def test_faulty_files_are_refused(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    assert expected in message_of(path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "\xff"}\n')
    assert "cannot be read" in message_of(path)


def test_missing_files_are_refused(tmp_path):
    assert "no such file" in message_of(tmp_path / "nothing.jsonl")
    assert "no such file" in message_of("nothing")
    (tmp_path / "empty").mkdir()
    assert "is a directory without train files" in message_of(tmp_path / "empty")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name:main", ("owner/name", "main", "train")),
        ("owner/name:main:test", ("owner/name", "main", "test")),
        ("owner/name::test", ("owner/name", None, "test")),
    ],
)
def test_the_parts_of_a_hub_name(monkeypatch, source, expected):
    calls = []

    def load_dataset(name, config, split):
        calls.append((name, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load(source)
    assert values(rows) == ROWS
    assert rows[1].where == f"{FIELD}={source}: row 2"
    assert calls == [expected]


@pytest.mark.parametrize(
    "error",
    [ConnectionError("Couldn't reach 'owner/name' on the Hub\nmore"), ValueError("Unknown split")],
)
def test_a_hub_that_cannot_be_reached_is_an_error(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = message_of("owner/name:main")
    assert "split 'train' cannot be loaded from the Hugging Face hub: " in message
    assert str(error).splitlines()[0] in message


def test_a_hub_name_with_too_many_parts_is_refused():
    assert "must be a file or owner/name[:config[:split]]" in message_of("owner/name:a:b:c")


@given(st.binary(max_size=200))
def test_any_faulty_file_is_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="any"):
        load(path)


# --- files that are no files, and files that unfold


def of_parquet(path, values):
    """A file of one column, whose repeated values are stored once."""
    column = pyarrow.array(values).dictionary_encode()
    table = pyarrow.table({"question": column})
    parquet.write_table(table, path, compression="zstd", store_schema=False)
    return path


def test_a_small_file_that_unfolds_to_very_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 2**24)
    path = of_parquet(tmp_path / "a.parquet", ["a" * 2**16] * 100_000)
    assert path.stat().st_size < 3_000  # of 6 GiB
    with pytest.raises(UserError, match=r"f=.*a\.parquet has more than 16 MiB of content"):
        hub.load(str(path), "f", split="train", columns=())


def test_rows_without_values_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 2**20)
    path = of_parquet(tmp_path / "a.parquet", [""] * 1_000_000)
    with pytest.raises(UserError, match="has more than 1 MiB"):
        hub.load(str(path), "f", split="train", columns=())


def test_rows_of_several_batches_are_numbered(tmp_path):
    path = of_parquet(tmp_path / "a.parquet", [str(i) for i in range(600)])
    rows = hub.load(str(path), "f", split="train", columns=("question",))
    assert [row.values["question"] for row in rows] == [str(i) for i in range(600)]
    assert rows[-1].where.endswith("row 600")


@pytest.mark.parametrize("suffix", hub.SUFFIXES)
def test_a_long_text_is_refused_by_its_size(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(reading, "MOST_BYTES", 2**10)
    path = tmp_path / f"a{suffix}"
    path.write_text("a" * 2_000)  # one line
    with pytest.raises(UserError, match=r"has more than .* of content"):
        hub.load(str(path), "f", split="train", columns=())


@pytest.mark.parametrize("suffix", hub.SUFFIXES)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    for name in ("pipe", "zero", "loop"):
        with pytest.raises(UserError, match=r"(it is no regular file|no such file)") as error:
            list(hub.read_file(tmp_path / f"{name}{suffix}", f"f={name}"))
        assert str(error.value).startswith(f"f={name}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(UserError, match="it is a directory"):
        list(hub.read_file(tmp_path / f"folder{suffix}", "f"))


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.zst", "a.arrow", "a.csv.bz2"])
def test_packed_files_are_refused_by_their_names(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"name must end in one of: \.jsonl, \.json, "):
        hub.load(str(tmp_path / name), "f", split="train", columns=())
