"""The sets that are known by name or by content, with their licences."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from hlserve.datasets.dataset import Dataset
from hlserve.datasets.npz import read_npz

DIGIT_LABELS = tuple(str(digit) for digit in range(10))
FASHION_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """The facts about a known set.

    Attributes:
        shape: the shape of one row.
        embedded: whether the package holds the rows, so that the name alone is enough; the
            others are recognised in a folder by ``labels_sha256``.
        labels_sha256: SHA-256 of the training labels, one byte each; "" for embedded sets.
    """

    name: str
    train_rows: int
    test_rows: int
    shape: tuple[int, ...]
    class_labels: tuple[str, ...]
    units: str
    licence: str
    source: str
    embedded: bool
    labels_sha256: str = ""


_FASHION_SOURCE = "Zalando Research, https://github.com/zalandoresearch/fashion-mnist"
_PIXELS = "pixel intensity 0..255"

KNOWN = (
    KnownDataset(
        name="digits",
        train_rows=1400,
        test_rows=397,
        shape=(1, 8, 8),
        class_labels=DIGIT_LABELS,
        units="pixel intensity 0..16",
        licence="CC-BY-4.0",
        source="E. Alpaydin, C. Kaynak, UCI ML Repository, https://doi.org/10.24432/C50P49",
        embedded=True,
    ),
    KnownDataset(
        name="fashion-mini",
        train_rows=5000,
        test_rows=1000,
        shape=(1, 28, 28),
        class_labels=FASHION_LABELS,
        units=_PIXELS,
        licence="MIT",
        source=_FASHION_SOURCE,
        embedded=True,
    ),
    KnownDataset(
        name="fashion-mnist",
        train_rows=60000,
        test_rows=10000,
        shape=(1, 28, 28),
        class_labels=FASHION_LABELS,
        units=_PIXELS,
        licence="MIT",
        source=_FASHION_SOURCE,
        embedded=False,
        labels_sha256="657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    ),
    KnownDataset(
        name="mnist",
        train_rows=60000,
        test_rows=10000,
        shape=(1, 28, 28),
        class_labels=DIGIT_LABELS,
        units=_PIXELS,
        licence="CC-BY-SA-3.0",
        source="Y. LeCun, C. Cortes, C. J. C. Burges, http://yann.lecun.com/exdb/mnist",
        embedded=False,
        labels_sha256="1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
)


def load_embedded(known: KnownDataset) -> Dataset:
    """Reads a set that the package holds.

    Both were made by ``tools/make_embedded_datasets.py``: the rows of ``digits`` are shuffled
    once, because the source orders them by writer and its last rows come from other writers than
    its first; ``fashion-mini`` is drawn from the source's own two parts, every class equally.
    """
    member = resources.files("hlserve.datasets") / "embedded" / f"{known.name}.npz"
    with resources.as_file(member) as path:
        return with_facts(read_npz(path), known)


def with_facts(dataset: Dataset, known: KnownDataset) -> Dataset:
    """The same rows under the known set's name, class labels, licence and source."""
    return Dataset(
        name=known.name,
        train=dataset.train,
        test=dataset.test,
        task="classification",
        class_labels=known.class_labels,
        units=known.units,
        feature_names=None,
        licence=known.licence,
        source=known.source,
    )
