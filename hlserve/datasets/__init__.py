"""Real rows in: embedded sets by name; IDX folders, NPZ and CSV files by path."""

from hlserve.datasets.dataset import Dataset, Rows, Task
from hlserve.datasets.known import KNOWN, KnownDataset
from hlserve.datasets.load import load

__all__ = ["KNOWN", "Dataset", "KnownDataset", "Rows", "Task", "load"]
