"""Which rows can be searched on."""

from __future__ import annotations

from hlserve.datasets import Dataset
from hlserve.errors import DataError
from hlserve.row_blocks import is_mapped


def require_numbers_in_memory(dataset: Dataset) -> None:
    """Refuses rows with which ``hlserve train`` would not repeat a trial.

    Raises:
        DataError: rows are ids of words, or are streamed from a file.
    """
    if dataset.n_ids is not None:
        raise DataError(
            f"{dataset.name}: rows are ids of words, and a search tries networks of numbers; train "
            "one that reads sequences, such as hlserve train --arch bigru:64"
        )
    for rows in (dataset.train, dataset.test):
        if rows is not None and is_mapped(rows.x):
            raise DataError(
                f"{dataset.name}: rows of {rows.x.nbytes / 2**20:,.0f} MiB are streamed from their "
                "file, and a search holds them in memory; search on some of them, and train what "
                "it finds on all"
            )
