"""Rows of memory maps are read from their file."""

from pathlib import Path

import numpy as np
import pytest

from hlserve.errors import DataError
from hlserve.row_blocks import Array, RowReader, file_rows, is_mapped, row_blocks, rows_at

ROWS = np.random.default_rng(0).normal(size=(1000, 3, 4)).astype(np.float32)


@pytest.fixture
def mapped(tmp_path: Path) -> Array:
    np.save(tmp_path / "x.npy", ROWS)
    opened: Array = np.load(tmp_path / "x.npy", mmap_mode="r")
    return opened


def test_views_know_their_place_in_the_file(mapped: Array, tmp_path: Path) -> None:
    header = 128
    for view, skipped in [
        (mapped, 0),
        (mapped[10:], 10),
        (mapped[10:][5:20], 15),
        (np.asarray(mapped).reshape(1000, 12)[3:], 3),
        (mapped[:, np.newaxis], 0),
    ]:
        place = file_rows(view)
        assert place is not None
        assert (place.path, place.row_bytes) == (tmp_path / "x.npy", 48)
        assert place.offset == header + 48 * skipped


def test_what_does_not_lie_in_a_file_row_by_row_is_read_from_memory(mapped: Array) -> None:
    copied_on_write = np.memmap(file_rows(mapped).path, np.float32, "c", 128, (1000, 12))  # type: ignore[union-attr]
    copied_on_write[0] = 7
    for view in (ROWS, mapped[:, 1:], mapped[::2], np.array(mapped), copied_on_write):
        assert not is_mapped(view)
        blocks = [block.copy() for _, block in row_blocks(view, block_bytes=1000)]
        np.testing.assert_array_equal(np.concatenate(blocks), view)


@pytest.mark.parametrize("block_bytes", [1, 48, 1000, 10**6])
def test_blocks_are_all_rows_in_order(mapped: Array, block_bytes: int) -> None:
    view = np.asarray(mapped).reshape(1000, 12)[7:]
    found = [(first, block.copy()) for first, block in row_blocks(view, block_bytes=block_bytes)]
    np.testing.assert_array_equal(np.concatenate([b for _, b in found]), ROWS.reshape(-1, 12)[7:])
    lengths = np.array([len(block) for _, block in found])
    np.testing.assert_array_equal([first for first, _ in found], np.cumsum(lengths) - lengths)


def test_rows_are_found_by_rising_indices(mapped: Array) -> None:
    for indices in ([], [0], [999], [3, 4, 5, 9, 11, 12, 998], list(range(1000))):
        chosen = np.array(indices, np.int64)
        for array in (mapped, ROWS):
            np.testing.assert_array_equal(rows_at(array, chosen), ROWS[chosen])


def test_a_file_beyond_the_first_page_keeps_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(5000) + ROWS.tobytes())
    view = np.memmap(path, np.float32, "r", 5000, (1000, 12))[100:]
    blocks = [block.copy() for _, block in row_blocks(view)]
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS.reshape(-1, 12)[100:])


def test_a_file_that_became_shorter_is_told(mapped: Array, tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(128 + 48 * 500)
    with RowReader(mapped) as reader:
        reader.read(0, 500, np.empty((500, 3, 4), np.float32))
        with pytest.raises(DataError, match=r"x\.npy': ends at byte 24128, before row 500; it has"):
            reader.read(490, 501, np.empty((11, 3, 4), np.float32))
    (tmp_path / "x.npy").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        RowReader(mapped)
