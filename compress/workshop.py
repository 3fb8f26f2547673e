"""Where stems are grown: one after another here, or several at a time in processes.

Every stem that is grown is kept in a folder, by the digest of its steps, so that a search that
was interrupted goes on with what it has.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never, Self

import msgspec
from tqdm import tqdm

from compress.crew import Crew
from compress.digests import rows_sha256
from compress.export import to_onnx
from compress.recipe import Recipe
from compress.stem import Grown, Stem
from compress.technique import Data, Report
from compress.trainee import Failed, Finished, Lesson, Message, Order, take_steps, work, write_rows
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn import checkpoint
from hlserve.nn.atomic_file import write_atomically
from hlserve.nn.network import Network

_FINGERPRINT = "fingerprint"


class _Kept(msgspec.Struct, frozen=True):
    """What stands beside a checkpoint."""

    reports: list[Report]
    seconds: float


@dataclass(slots=True)
class Workshop:
    """Grows stems from one network and one set of rows.

    Attributes:
        network: the original.
        data: what steps learn from.
        folder: where grown stems are kept.
        jobs: how many are grown at a time, each in a process of its own; with 1 here.
        notes: what could not be grown, and why, is added here.
    """

    network: Network
    data: Data
    folder: Path
    jobs: int
    notes: list[str]
    # Grown here: a file cannot give back a layer of the user's own.
    _at_hand: dict[str, Network] = field(default_factory=dict)

    @classmethod
    def opened(
        cls,
        network: Network,
        data: Data,
        folder: Path,
        *,
        jobs: int = 1,
        is_resumed: bool = False,
        notes: list[str],
    ) -> Self:
        """The workshop in a folder; what another run left there is used if ``is_resumed``.

        Raises:
            ConfigError: what is there belongs to another model, other rows or another seed.
        """
        mark = _fingerprint(network, data)
        file = folder / _FINGERPRINT
        if is_resumed and file.exists() and file.read_text() != mark:
            raise ConfigError(
                f"{folder} holds a search from another model, other rows or another seed; "
                "leave --resume out to begin anew"
            )
        if not is_resumed and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(mark)
        return cls(network, data, folder, jobs, notes)

    def grown(self, stems: Sequence[Stem]) -> list[Grown]:
        """Those that could be grown, in order; parents must have been grown before."""
        missing = [stem for stem in stems if not self._file(stem.key).exists()]
        unique = list({stem.key: stem for stem in missing}.values())
        if self.jobs > 1 and len(unique) > 1:
            self._grow_in_processes(unique)
        else:
            for stem in unique:
                self._grow_here(stem)
        return [self._read(stem) for stem in stems if self._file(stem.key).exists()]

    def original(self) -> Grown:
        """The stem without steps."""
        return Grown(Stem("", "folded"), self.network, (), 0.0)

    # ----- below

    def _grow_here(self, stem: Stem) -> None:
        own = Recipe(stem.steps[stem.n_shared :])
        started = time.monotonic()
        try:
            done = take_steps(self._network(stem.parent_key), own, self.data)
        except CompressionError as error:
            self.notes.append(f"{stem.name} was left out: {error}")
            return
        self._at_hand[stem.key] = done.network
        self._keep(stem, done.reports, time.monotonic() - started)
        checkpoint.save(done.network, self._file(stem.key))  # last: it says that the stem is there

    def _grow_in_processes(self, stems: Sequence[Stem]) -> None:
        rows = self.folder / "rows"
        if not rows.exists():
            rows.mkdir()
            write_rows(self.data, rows)
        data = self.data
        lesson = Lesson(rows, tuple(data.train.inputs), data.seed, data.image_shape)
        waiting, running = list(enumerate(stems)), dict[int, float]()
        with (
            self._bar(len(stems)) as bar,
            Crew[Lesson, Order, Message](work, lesson, self.jobs) as crew,
        ):
            while waiting or running:
                while waiting and crew.is_free:
                    number, stem = waiting.pop(0)
                    crew.start(number, self._order(stem))
                    running[number] = time.monotonic()
                for number, message in crew.messages(None):
                    crew.release(number)
                    self._hear(stems[number], message, time.monotonic() - running.pop(number))
                    bar.update()

    def _bar(self, total: int) -> tqdm[Never]:
        return tqdm(
            total=total,
            desc="training candidates",
            unit="candidate",
            leave=False,
            disable=None if self.data.progress else True,
        )

    def _order(self, stem: Stem) -> Order:
        source = self._file(stem.parent_key or "original")
        if not source.exists():
            checkpoint.save(self._network(stem.parent_key), source)
        return Order(
            source, Recipe(stem.steps[stem.n_shared :]).to_toml(), self._file(f"{stem.key}.new")
        )

    def _hear(self, stem: Stem, message: Message, seconds: float) -> None:
        match message:
            case Failed(reason=reason):
                self.notes.append(f"{stem.name} was left out: {reason}")
            case Finished(reports=reports):
                self._keep(stem, reports, seconds)
                self._file(f"{stem.key}.new").replace(self._file(stem.key))

    def _keep(self, stem: Stem, reports: Sequence[Report], seconds: float) -> None:
        kept = _Kept([*self._reports(stem.parent_key), *reports], seconds)
        write_atomically(self.folder / f"{stem.key}.json", msgspec.json.encode(kept))

    def _reports(self, key: str) -> list[Report]:
        return self._kept(key).reports if key else []

    def _kept(self, key: str) -> _Kept:
        return msgspec.json.decode((self.folder / f"{key}.json").read_bytes(), type=_Kept)

    def _network(self, key: str) -> Network:
        if not key:
            return self.network
        return self._at_hand.get(key) or checkpoint.load(self._file(key))

    def _read(self, stem: Stem) -> Grown:
        kept = self._kept(stem.key)
        return Grown(stem, self._network(stem.key), tuple(kept.reports), kept.seconds)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _fingerprint(network: Network, data: Data) -> str:
    inputs = dict(data.train.inputs)
    if data.teacher_logits is not None:
        inputs["logits:"] = data.teacher_logits
    model = hashlib.sha256(to_onnx(network).SerializeToString()).hexdigest()
    return f"{model} {rows_sha256(Rows(inputs, data.train.y))} {data.seed}"
