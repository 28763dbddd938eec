"""Files written here, byte by byte or by numpy, and read back; broken ones are refused."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from truestep.compare.problems import (
    read_cifar,
    read_cifar_data,
    read_idx,
    read_idx_data,
    read_npz,
    read_npz_data,
    read_text,
)

IDX = [(8, ">u1"), (9, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]


def idx(code: int, array: np.ndarray) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
@pytest.mark.parametrize(("code", "dtype"), IDX)
def test_an_idx_file_is_read_back_in_its_format_plain_or_gzipped(code, dtype, squeeze, tmp_path: Path) -> None:
    array = np.array([[0, 1, 127], [100, 77, 3]]).astype(dtype) - (0 if "u" in dtype else 5)
    file = tmp_path / "array"
    file.write_bytes(squeeze(idx(code, array.astype(dtype))))
    expected = torch.from_numpy(array.astype(np.dtype(dtype).newbyteorder("=")))
    torch.testing.assert_close(read_idx(file), expected, rtol=0, atol=0)


def test_an_idx_array_without_elements_keeps_its_shape(tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(idx(8, np.zeros((0, 28, 28), ">u1")))
    assert read_idx(tmp_path / "none").shape == (0, 28, 28)


def test_images_of_idx_files_are_from_0_to_1(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(idx(8, np.array([[[0, 255]], [[51, 102]]], ">u1")))
    (tmp_path / "y").write_bytes(idx(8, np.array([3, 9], ">u1")))
    images, labels = read_idx_data(tmp_path / "x", str(tmp_path / "y"))
    torch.testing.assert_close(images, torch.tensor([[[0.0, 1.0]], [[0.2, 0.4]]]))
    assert labels.tolist() == [3, 9]


WHOLE = idx(8, np.arange(6, dtype=">u1"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-1], r"must have 14 bytes for the shape \[6\], found 13"),
        (WHOLE + b"0", "must have 14 bytes"),
        (WHOLE[:6], "must have"),
        (b"PNG and more", "must be an IDX file, found one that starts with 50 4e 47 20"),
        (bytes([0, 0, 10, 1, 0, 0, 0, 0]), "must be an IDX file"),
        (b"", "must be an IDX file"),
        (gzip.compress(WHOLE)[:-9], "must be a whole gzip file"),
        (gzip.compress(WHOLE)[:14] + b"\xff" * 20, "must be a whole gzip file"),
    ],
    ids=range(8),  # gzip writes the time into its bytes
)
def test_a_broken_idx_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "broken")


def cifar(path: Path, labels: list[list[int]]) -> np.ndarray:
    images = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    path.write_bytes(b"".join(bytes(label) + image.tobytes() for label, image in zip(labels, images, strict=True)))
    return images


def test_cifar_10_files_are_read_back_one_after_the_other(tmp_path: Path) -> None:
    first, second = cifar(tmp_path / "1.bin", [[3], [9]]), cifar(tmp_path / "2.bin", [[0]])
    images, labels = read_cifar(tmp_path / "1.bin", tmp_path / "2.bin")
    assert np.array_equal(images.numpy(), np.concatenate([first, second]))
    assert labels.tolist() == [3, 9, 0]
    assert torch.equal(read_cifar_data(tmp_path / "2.bin")[0], torch.from_numpy(second).float() / 255)


def test_of_cifar_100_the_fine_label_is_read(tmp_path: Path) -> None:
    expected = cifar(tmp_path / "train.bin", [[19, 99], [4, 0]])
    images, labels = read_cifar(tmp_path / "train.bin", classes=100)
    assert np.array_equal(images.numpy(), expected)
    assert labels.tolist() == [99, 0]


def test_what_is_not_cifar_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.bin"
    cifar(file, [[10]])
    with pytest.raises(ValueError, match="`classes` is 10, but a label is 10"):
        read_cifar(file)
    with pytest.raises(ValueError, match="3074-byte records for 100 classes, found 3073 bytes"):
        read_cifar(file, classes=100)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="found 0 bytes"):
        read_cifar(file)
    with pytest.raises(ValueError, match="`paths` must name at least one file"):
        read_cifar()


def test_a_text_comes_back_from_its_numbers_line_ends_and_all(tmp_path: Path) -> None:
    text = "Größe\r\nα → β\n"
    (tmp_path / "text").write_bytes(text.encode())
    numbers, characters = read_text(tmp_path / "text")
    assert "".join(characters[i] for i in numbers.tolist()) == text
    assert list(characters) == sorted(set(text))


@pytest.mark.parametrize(("content", "message"), [(b"", "empty file"), (b"\xff\xfe", "must be a UTF-8 text")])
def test_what_is_no_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "text")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_are_read_back_whatever_their_byte_order(save, tmp_path: Path) -> None:
    save(tmp_path / "data.npz", x=np.arange(6, dtype=">f4").reshape(2, 3), y=np.array([1, 0]))
    x, y = read_npz_data(tmp_path / "data.npz", "x", "y")
    assert torch.equal(x, torch.arange(6.0).view(2, 3))
    assert y.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"`path` must hold \['z'\], found \['x', 'y'\]"):
        read_npz_data(tmp_path / "data.npz", "x", "z")


class Harm:
    done = False

    def __reduce__(self):
        return setattr, (Harm, "done", True)


def test_a_pickle_in_an_npz_file_is_refused_and_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([Harm()], dtype=object))
    with pytest.raises(ValueError, match="`path` must hold arrays of numbers, found 'x'"):
        read_npz(tmp_path / "data.npz")
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="`path` must be an npz file"):
        read_npz(tmp_path / "raw.npz")
    assert not Harm.done


def test_an_npz_array_of_words_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", words=np.array(["a", "b"]))
    with pytest.raises(ValueError, match="`path` must hold arrays of numbers, found 'words'"):
        read_npz(tmp_path / "data.npz")
