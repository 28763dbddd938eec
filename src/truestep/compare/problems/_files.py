"""Files that a user has, read into tensors: IDX as MNIST's, CIFAR's binary, text, npz. No pickle is loaded."""

from __future__ import annotations

import gzip
import math
from os import PathLike
from pathlib import Path
from typing import Final, Literal
from zipfile import BadZipFile

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from truestep.core._extra import lab_extra

File = str | PathLike[str]

IDX_TYPES: Final = {
    0x08: torch.uint8,
    0x09: torch.int8,
    0x0B: torch.int16,
    0x0C: torch.int32,
    0x0D: torch.float32,
    0x0E: torch.float64,
}
CIFAR_PIXELS: Final = 3 * 32 * 32
GZIP: Final = b"\x1f\x8b"


def read_idx(path: File) -> Tensor:
    """The array of an IDX file as MNIST's, also gzipped, with its own shape and number format.

    Raises:
        ValueError: If it is no such file, or is cut off.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7]))
        ...     file.flush()
        ...     read_idx(file.name)
        tensor([5, 6, 7], dtype=torch.uint8)
    """
    raw = Path(path).read_bytes()
    try:
        content = gzip.decompress(raw) if raw.startswith(GZIP) else raw
    except (EOFError, OSError) as error:
        raise ValueError(f"`path` must be a whole gzip file, found {path}: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise ValueError(f"`path` must be an IDX file, found one that starts with {content[:4].hex(' ')}: {path}")
    dtype, start = IDX_TYPES[content[2]], 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(f"`path` must have {expected} bytes for the shape {shape}, found {len(content)}: {path}")
    if len(content) == start:
        return torch.empty(shape, dtype=dtype)
    numbers = torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].view(-1, dtype.itemsize)
    return numbers.flip(1).clone().view(dtype).view(shape)  # the file is big-endian


def read_idx_data(images: File, labels: File) -> tuple[Float[Tensor, "samples *shape"], Int64[Tensor, " samples"]]:
    """Images from 0 to 1 and labels, from two IDX files; for `supervised`."""
    return read_idx(images).float() / 255, read_idx(labels).long()


def read_cifar(
    *paths: File, classes: Literal[10, 100] = 10
) -> tuple[UInt8[Tensor, "images 3 32 32"], Int64[Tensor, " images"]]:
    """Images and labels of CIFAR's binary version, all files one after the other.

    Args:
        *paths: "data_batch_1.bin" and so on.
        classes: 10, or 100 (the fine labels of CIFAR-100).

    Raises:
        ValueError: If a file is no whole number of records, or has a label that is none.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(bytes([7] + [255] * 3072))
        ...     file.flush()
        ...     images, labels = read_cifar(file.name)
        >>> images.shape, labels
        (torch.Size([1, 3, 32, 32]), tensor([7]))
    """
    if not paths:
        raise ValueError("`paths` must name at least one file, found none")
    record = CIFAR_PIXELS + (1 if classes == 10 else 2)  # of 100: the coarse label first
    parts: list[Tensor] = []
    for path in paths:
        content = Path(path).read_bytes()
        if not content or len(content) % record:
            msg = f"`paths` must be files of {record}-byte records for {classes} classes, found {len(content)} bytes"
            raise ValueError(f"{msg}: {path}")
        parts.append(torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, record))
    records = torch.cat(parts)
    labels = records[:, -CIFAR_PIXELS - 1].long()
    if int(labels.max()) >= classes:
        raise ValueError(f"`classes` is {classes}, but a label is {int(labels.max())}: is it the other CIFAR?")
    return records[:, -CIFAR_PIXELS:].reshape(-1, 3, 32, 32), labels


def read_cifar_data(*paths: File, classes: Literal[10, 100] = 10) -> tuple[Tensor, Tensor]:
    """Images from 0 to 1 and labels, of CIFAR's binary version; for `supervised`."""
    images, labels = read_cifar(*paths, classes=classes)
    return images.float() / 255, labels


def read_text(path: File) -> tuple[Int64[Tensor, " length"], str]:
    """The numbers of a UTF-8 file's characters, and all its characters in order: number k is the k-th.

    Raises:
        ValueError: If it is empty, or not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write("abca".encode())
        ...     file.flush()
        ...     read_text(file.name)
        (tensor([0, 1, 2, 0]), 'abc')
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")  # not read_text, which would change line ends
    except UnicodeDecodeError as error:
        raise ValueError(f"`path` must be a UTF-8 text, found {path}: {error}") from error
    if not text:
        raise ValueError(f"`path` must be a text, found an empty file: {path}")
    characters = "".join(sorted(set(text)))
    number = {character: i for i, character in enumerate(characters)}
    return torch.tensor([number[character] for character in text]), characters


def read_npz(path: File) -> dict[str, Tensor]:
    """The arrays of an npz file by name, in their number formats; arrays of objects, which are pickled, are refused.

    Raises:
        ImportError: numpy is not installed.
        ValueError: If it is no npz file, or an array has no number format of torch.

    Example:
        >>> import io, tempfile, numpy
        >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        ...     numpy.savez(file.name, x=numpy.arange(3.0))
        ...     read_npz(file.name)
        {'x': tensor([0., 1., 2.], dtype=torch.float64)}
    """
    with lab_extra("this problem"):
        import numpy as np
    out: dict[str, Tensor] = {}
    name = ""
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                array = arrays[name]
                out[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except BadZipFile as error:
        raise ValueError(f"`path` must be an npz file, found {path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"`path` must hold arrays of numbers, found {name!r} in {path}: {error}") from error
    return out


def read_npz_data(path: File, inputs: str, targets: str) -> tuple[Tensor, Tensor]:
    """Two arrays of an npz file in their number formats; for `supervised`.

    Raises:
        ValueError: If it has none of that name.
    """
    arrays = read_npz(path)
    if missing := {inputs, targets} - set(arrays):
        raise ValueError(f"`path` must hold {sorted(missing)}, found {sorted(arrays)}")
    return arrays[inputs], arrays[targets]
