"""Folders as `datasets` 5.2 and the Hub write them, made here by pyarrow and read back; others are refused."""

import io
import json
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from truestep.compare.problems import cross_entropy_loss, read_folder, read_folder_data, seeded, supervised

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_stream(table: pa.Table, file: Path) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def save(table: pa.Table, folder: Path, shards: int = 1, **state: Any) -> None:
    """As `Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    size = -(-len(table) // shards)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        write_stream(table.slice(i * size, size), folder / name)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names], **state}))
    (folder / "cache-1.arrow").write_bytes(b"none of it")


def save_splits(folder: Path, shards: int = 1, **tables: pa.Table) -> None:
    """As `DatasetDict.save_to_disk`."""
    for name, table in tables.items():
        save(table, folder / name, shards, _split=None)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [*tables]}))


def cell(pixels: np.ndarray, **keywords: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", **keywords)
    return {"bytes": file.getvalue(), "path": None}


def numbers(rows: int, start: int = 0) -> pa.Table:
    return pa.table({"x": [[i + 0.5, -i] for i in range(start, start + rows)], "label": range(start, start + rows)})


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_saved_dataset_is_read_in_the_order_of_its_rows(shards: int, tmp_path: Path) -> None:
    save(numbers(5), tmp_path / "data", shards, _split="train")
    read = read_folder(tmp_path / "data")
    assert read["label"].tolist() == [0, 1, 2, 3, 4]
    assert read["x"].tolist() == [[i + 0.5, -i] for i in range(5)]
    assert read_folder(tmp_path / "data", "label", split="train").keys() == {"label"}


def test_a_saved_dataset_that_says_no_split_is_train(tmp_path: Path) -> None:
    save(numbers(2), tmp_path / "data", _split=None)
    assert read_folder(tmp_path / "data", split="train")["label"].tolist() == [0, 1]


def test_of_several_splits_the_one_asked_for_is_read_and_train_by_default(tmp_path: Path) -> None:
    save_splits(tmp_path / "data", train=numbers(4), test=numbers(2, start=10))
    assert read_folder(tmp_path / "data")["label"].tolist() == [0, 1, 2, 3]
    assert read_folder(str(tmp_path / "data"), split="test")["label"].tolist() == [10, 11]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-{}-of-2.parquet", "data/test-{}-of-2.parquet"),
        ("train/{}.parquet", "test/{}.parquet"),
        ("default_train_{}.arrow", "default_test_{}.arrow"),
    ],
)
def test_loose_files_say_their_split_by_a_word(train: str, test: str, tmp_path: Path) -> None:
    for i, name in enumerate((train.format(0), train.format(1), test.format(0))):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        write = parquet.write_table if file.suffix == ".parquet" else write_stream
        write(numbers(2, start=10 * i), file)
    assert read_folder(tmp_path)["label"].tolist() == [0, 1, 10, 11]
    assert read_folder(tmp_path, split="test")["label"].tolist() == [20, 21]
    with pytest.raises(ValueError, match="`split` must be a word in the name of a file, found 'trainer'"):
        read_folder(tmp_path, split="trainer")


def test_loose_files_that_say_no_split_are_one(tmp_path: Path) -> None:
    with pa.OSFile(str(tmp_path / "all.arrow"), "wb") as sink, pa.ipc.new_file(sink, numbers(3).schema) as writer:
        writer.write_table(numbers(3))
    write_stream(numbers(1, start=50), tmp_path / "cache-1.arrow")  # what `datasets` left there
    assert read_folder(tmp_path)["label"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="`split` must be a word in the name of a file, found 'test'"):
        read_folder(tmp_path, split="test")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.uint8(), [0, 255]),
        (pa.int64(), [-(2**62), 3]),
        (pa.float16(), [0.5, -2.0]),
        (pa.float32(), [0.1, float("inf")]),
        (pa.float64(), [0.1, 1e300]),
        (pa.bool_(), [True, False]),
        (pa.list_(pa.float32()), [[0.1, 2.0], [3.0, 4.0]]),
        (pa.list_(pa.int32(), 3), [[1, 2, 3], [4, 5, 6]]),
        (pa.large_list(pa.list_(pa.float64())), [[[1.0, 2.0]], [[3.0, 4.0]]]),
    ],
    ids=str,
)
def test_numbers_keep_their_format_and_shape(kind: pa.DataType, values: list[Any], tmp_path: Path) -> None:
    save(pa.table({"x": pa.array(values, kind)}), tmp_path / "data")
    inner = kind
    while hasattr(inner, "value_type"):
        inner = inner.value_type
    expected = torch.from_numpy(np.array(values, dtype=inner.to_pandas_dtype()))
    torch.testing.assert_close(read_folder(tmp_path / "data")["x"], expected, rtol=0, atol=0)


class Matrix(pa.ExtensionType):
    """As `datasets` has them for its Array2D, where it is imported."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.list_(pa.float32())), "datasets.features.features.Array2DExtensionType")

    def __arrow_ext_serialize__(self) -> bytes:
        return b'[[1, 2], "float32"]'

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> "Matrix":
        return cls()


@pytest.mark.parametrize("known", [True, False])
def test_arrays_of_datasets_own_type_are_read_whether_it_is_imported_or_not(known: bool, tmp_path: Path) -> None:
    values = pa.array([[[1.0, 2.0]], [[3.0, 4.0]]], Matrix().storage_type)
    save(pa.table({"x": pa.ExtensionArray.from_storage(Matrix(), values)}), tmp_path / "data")
    if known:
        pa.register_extension_type(Matrix())
    try:
        assert read_folder(tmp_path / "data")["x"].tolist() == [[[1.0, 2.0]], [[3.0, 4.0]]]
    finally:
        if known:
            pa.unregister_extension_type(Matrix().extension_name)


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_images_come_back_pixel_by_pixel(channels: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, *channels), dtype=np.uint8)
    save(pa.table({"image": pa.array(list(map(cell, pixels)), IMAGE), "label": [2, 0, 1]}), tmp_path / "data")
    read = read_folder(tmp_path / "data")["image"]
    expected = torch.from_numpy(pixels).view(3, 4, 5, -1).permute(0, 3, 1, 2)
    assert torch.equal(read, expected)
    x, y = read_folder_data(tmp_path / "data", "image", "label")
    torch.testing.assert_close(x, expected / 255)
    assert y.tolist() == [2, 0, 1]


def test_an_image_may_lie_beside_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(cell(np.full((2, 2), 7, np.uint8))["bytes"])
    parquet.write_table(pa.table({"image": pa.array([{"path": "a.png"}], IMAGE)}), tmp_path / "x.parquet")
    assert read_folder(tmp_path)["image"].tolist() == [[[[7, 7], [7, 7]]]]


NO_TENSORS = {
    "words": (pa.array(["a", "b"]), "of string"),
    "gaps": (pa.array([1, None]), "with 1 empty values"),
    "inner": (pa.array([[1, 2], [None, 3]]), "with 1 empty values"),
    "ragged": (pa.array([[1], [2, 3]]), "with lists of 1 to 2"),
    "dates": (pa.array([1, 2], pa.timestamp("s")), r"of timestamp\[s\]"),
    "sizes": (
        pa.array([cell(np.zeros((1, 2), np.uint8)), cell(np.zeros((2, 2), np.uint8))], IMAGE),
        r"with images of several shapes, as \[\(1, 1, 2\), \(1, 2, 2\)\]",
    ),
    "deep": (pa.array([cell(np.zeros((1, 2), np.uint16))] * 2, IMAGE), "with images of mode I;16"),
    "pickles": (pa.array([pickle.dumps(1)] * 2, pa.binary()), "of binary"),
}


@pytest.mark.parametrize("name", NO_TENSORS)
def test_what_is_no_tensor_is_left_out_and_refused_where_it_is_asked_for(name: str, tmp_path: Path) -> None:
    column, reason = NO_TENSORS[name]
    save(pa.table({name: column, "y": [1, 2]}), tmp_path / "data")
    assert {key: y.tolist() for key, y in read_folder(tmp_path / "data").items()} == {"y": [1, 2]}
    with pytest.raises(ValueError, match=f"`columns` must become tensors, found '{name}' {reason}"):
        read_folder(tmp_path / "data", name)


def broken_image(folder: Path) -> None:
    save(pa.table({"image": pa.array([{"bytes": b"no image"}], IMAGE)}), folder / "data")


def broken_file(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "train.parquet").write_bytes(b"PAR1 and no more")


def selection(folder: Path) -> None:
    save(numbers(2), folder / "data", _indices_data_files=[{"filename": "indices.arrow"}])


@pytest.mark.parametrize(
    ("make", "keywords", "message"),
    [
        (lambda folder: None, {}, "`path` must be a folder"),
        (lambda folder: (folder / "data").mkdir(), {}, "must hold Arrow or Parquet files, or a saved dataset"),
        (lambda folder: save(numbers(2), folder / "data"), {"split": "test"}, "`split` must be None where a single"),
        (
            lambda folder: save_splits(folder / "data", train=numbers(2)),
            {"split": "test"},
            r"`split` must be one of \['train'\], found 'test'",
        ),
        (broken_file, {}, "`path` must hold whole Arrow or Parquet files"),
        (broken_image, {}, "`path` must hold images that pillow can read"),
        (selection, {}, r"found a selection of them: .*; save it again after `dataset.flatten_indices\(\)`"),
    ],
    ids=range(7),
)
def test_what_is_no_such_folder_is_refused(
    make: Callable[[Path], Any], keywords: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path / "data", **keywords)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    save(numbers(2), tmp_path / "data")
    with pytest.raises(ValueError, match=r"must have the columns \['y'\], found \['x', 'label'\]"):
        read_folder(tmp_path / "data", "y", "x")


@pytest.mark.parametrize(("package", "column"), [("pyarrow", "label"), ("PIL", "image")])
def test_without_a_package_the_install_line_is_said(package, column, tmp_path, monkeypatch) -> None:
    table = pa.table({"label": [1], "image": pa.array([cell(np.zeros((1, 1), np.uint8))], IMAGE)})
    save(table, tmp_path / "data")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs `{package}`: pip install 'truestep\[datasets\]'"):
        read_folder(tmp_path / "data", column)


def linear(seed: int) -> torch.nn.Module:
    with seeded(seed):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))


def test_a_folder_is_a_problem_in_a_few_lines(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2, 2), dtype=np.uint8)
    cells = pa.array(list(map(cell, pixels)), IMAGE)
    save_splits(tmp_path / "data", train=pa.table({"image": cells, "label": [i % 3 for i in range(40)]}))
    load = partial(read_folder_data, str(tmp_path / "data"), "image", "label")
    problem = supervised("mine", load, linear, cross_entropy_loss, target=1.0, max_steps=10, batch_size=8)
    assert [x.shape[0] for x in (problem.probe()[0], next(problem.batches(0))[0])] == [32, 8]
    assert problem.probe_loss(problem.build(0)) > 0
