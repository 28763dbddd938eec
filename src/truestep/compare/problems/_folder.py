"""A folder of a Hugging Face dataset, read into tensors: what `save_to_disk` wrote, or Parquet files as the Hub's."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

File = str | PathLike[str]

INSTALL: Final = "pip install 'truestep[datasets]'"
SPLITS: Final = {"train", "test", "validation"}
MODES: Final = {
    "1": "L",
    "L": "L",
    "RGBA": "RGBA",
    "LA": "RGBA",
    "RGB": "RGB",
    "P": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}


def read_folder(path: File, *columns: str, split: str | None = None) -> dict[str, Tensor]:
    """Columns by name: numbers and lists of numbers in their formats, images as uint8 [rows, channels, height, width].

    Only pyarrow is needed, and pillow for images; nothing is downloaded, no code or pickle of the folder is run.

    Args:
        path: What `dataset.save_to_disk(path)` wrote, of one split or of several; or a folder with Parquet or Arrow
            files whose names or folders say their split, as "data/train-00000-of-00001.parquet".
        *columns: Which ones; by default all that become a tensor, so no texts and no lists of several lengths.
        split: Which part; None for the only one, or "train" where there are several.

    Raises:
        ImportError: pyarrow, or pillow, is not installed.
        ValueError: If there is no such folder, split or column, or one that is asked for cannot become a tensor.

    Example:
        >>> import pyarrow, pyarrow.parquet, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = pyarrow.table({"x": [[1.0, 2.0], [3.0, 4.0]], "label": [7, 9], "text": ["a", "b"]})
        ...     pyarrow.parquet.write_table(table, f"{folder}/train.parquet")
        ...     read_folder(folder)
        {'x': tensor([[1., 2.], [3., 4.]], dtype=torch.float64), 'label': tensor([7, 9])}
    """
    table = _table(Path(path), split)
    if missing := set(columns) - set(table.column_names):
        raise ValueError(f"`path` must have the columns {sorted(missing)}, found {table.column_names}: {path}")
    out: dict[str, Tensor] = {}
    for name in columns or table.column_names:
        try:
            out[name] = _tensor(table[name].combine_chunks(), Path(path))
        except _NoTensorError as error:
            if columns:
                raise ValueError(f"`columns` must become tensors, found {name!r} {error}: {path}") from error
    return out


def read_folder_data(path: File, inputs: str, targets: str, *, split: str | None = None) -> tuple[Tensor, Tensor]:
    """Two columns, images from 0 to 1; for `supervised`.

    Example:
        >>> import pyarrow, pyarrow.parquet, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pyarrow.parquet.write_table(pyarrow.table({"x": [0.5], "y": [3]}), f"{folder}/train.parquet")
        ...     read_folder_data(folder, "x", "y")
        (tensor([0.5000], dtype=torch.float64), tensor([3]))
    """
    read = read_folder(path, inputs, targets, split=split)
    x, y = read[inputs], read[targets]
    return (x.float() / 255 if x.dtype == torch.uint8 and x.ndim == 4 else x), y


class _NoTensorError(Exception):
    """Why a column cannot become a tensor: what it holds."""


def _table(folder: Path, split: str | None) -> Any:
    with _datasets_extra():
        import pyarrow as pa
        import pyarrow.parquet as pq
    files = _files(folder, split)
    try:
        tables = [pq.read_table(file) if file.suffix == ".parquet" else _arrow(file) for file in files]
    except pa.ArrowException as error:
        raise ValueError(f"`path` must hold whole Arrow or Parquet files, found {error}: {folder}") from error
    return pa.concat_tables(table.replace_schema_metadata() for table in tables)


def _arrow(file: Path) -> Any:
    """`datasets` writes streams; the file format, which other programs write, begins with its name."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        return (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()


def _files(folder: Path, split: str | None) -> list[Path]:
    """The split's files, in the order of its rows."""
    if not folder.is_dir():
        raise ValueError(f"`path` must be a folder, found none: {folder}")
    if (splits := folder / "dataset_dict.json").exists():
        names, split = json.loads(splits.read_text())["splits"], split or "train"
        if split not in names:
            raise ValueError(f"`split` must be one of {names}, found {split!r}: {folder}")
        return _saved(folder / split, split)
    return _saved(folder, split) if (folder / "state.json").exists() else _loose(folder, split)


def _saved(folder: Path, split: str | None) -> list[Path]:
    """What `Dataset.save_to_disk` lists in its state."""
    state = json.loads((folder / "state.json").read_text())
    if split not in (None, folder.name, state.get("_split") or "train"):
        raise ValueError(f"`split` must be None where a single one is saved, found {split!r}: {folder}")
    if state.get("_indices_data_files"):
        advice = "save it again after `dataset.flatten_indices()`"
        raise ValueError(f"`path` must hold the rows themselves, found a selection of them: {folder}; {advice}")
    return [folder / file["filename"] for file in state["_data_files"]]


def _loose(folder: Path, split: str | None) -> list[Path]:
    """Parquet, or else Arrow files with the split as a word in the name, or as a folder; all if none names a split."""
    wanted = split or "train"
    for kind in ("parquet", "arrow"):
        found = sorted(file for file in folder.rglob(f"*.{kind}") if not file.name.startswith("cache-"))
        names = [file.relative_to(folder).with_suffix("").as_posix() for file in found]
        words = [set(re.split(r"[\W_]+", name)) for name in names]
        if named := [file for file, of in zip(found, words, strict=True) if wanted in of]:
            return named
        if found and split is None and not any(of & SPLITS for of in words):
            return found
        if found:
            raise ValueError(f"`split` must be a word in the name of a file, found {wanted!r} and {names}: {folder}")
    raise ValueError(f"`path` must hold Arrow or Parquet files, or a saved dataset, found none: {folder}")


def _tensor(column: Any, folder: Path) -> Tensor:
    import pyarrow as pa

    if isinstance(column.type, pa.ExtensionType):  # Array2D, where `datasets` is imported
        column = column.storage
    if column.null_count:
        raise _NoTensorError(f"with {column.null_count} empty values")
    kind = pa.types
    if kind.is_struct(column.type) and {"bytes", "path"} <= {field.name for field in column.type}:
        return _images(column.to_pylist(), folder)
    if kind.is_list(column.type) or kind.is_large_list(column.type) or kind.is_fixed_size_list(column.type):
        inside, rows = column.flatten(), len(column)
        lengths = column.value_lengths().unique().to_pylist()
        if len(lengths) > 1:
            raise _NoTensorError(f"with lists of {min(lengths)} to {max(lengths)}")
        return _tensor(inside, folder).unflatten(0, (rows, lengths[0] if lengths else 0))
    if kind.is_boolean(column.type):
        return torch.tensor(column.to_pylist(), dtype=torch.bool)
    if kind.is_integer(column.type) or kind.is_floating(column.type):
        return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())
    raise _NoTensorError(f"of {column.type}")


def _images(cells: Sequence[dict[str, Any]], folder: Path) -> Tensor:
    """All of one size and mode; a grey one has one channel, a palette is resolved."""
    with _datasets_extra():
        from PIL import Image
    images: list[Tensor] = []
    for cell in cells:
        source = folder / cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
        try:
            with Image.open(source) as image:
                images.append(_pixels(image))
        except OSError as error:
            raise ValueError(f"`path` must hold images that pillow can read, found {error}: {folder}") from error
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        raise _NoTensorError(f"with images of several shapes, as {sorted(shapes)[:2]}")
    return torch.stack(images) if images else torch.empty(0, dtype=torch.uint8)


def _pixels(image: Any) -> Tensor:
    if image.mode not in MODES:
        raise _NoTensorError(f"with images of mode {image.mode}, which are more than bytes")
    plain = image.convert(MODES[image.mode])
    pixels = torch.frombuffer(bytearray(plain.tobytes()), dtype=torch.uint8)
    return pixels.view(plain.height, plain.width, -1).permute(2, 0, 1)


@contextmanager
def _datasets_extra() -> Generator[None, None, None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(f"this folder needs `{error.name}`: {INSTALL}", name=error.name) from error
