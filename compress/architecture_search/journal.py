"""The trials of a search, kept in a file from which it can go on.

Optuna's journal: a JSON line for everything that happens, written by this process alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np

from compress.architecture_search.space import FIRST_TRIAL, Candidate, Space
from compress.architecture_search.worker import file_name
from hlserve.errors import ConfigError, MissingDependencyError, ModelFileError

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise MissingDependencyError(
        'Optuna is not installed; type: pip install "hlserve[search]"'
    ) from error

FILE = "trials.journal"
_STUDY = "architectures"
_RANDOM_TRIALS = 10  # before the sampler has seen enough to learn from

State = Literal["trained", "stopped"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate that was tried.

    Attributes:
        number: counted from 0, as its files are named.
        score: the validation metric at its best epoch, negative where less is better; of a
            candidate that was given up, at the best epoch until then, and None before a first.
        curve: the score after every epoch.
    """

    number: int
    candidate: Candidate
    parameters: int
    macs: int
    state: State
    score: float | None
    curve: tuple[float, ...]
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Running:
    """A candidate that is being trained; ``notes`` is where its outcome is written."""

    number: int
    notes: optuna.Trial
    candidate: Candidate
    parameters: int
    macs: int
    curve: list[float]


class Journal:
    """Asks the sampler for candidates and writes down what became of them.

    Both objectives count: a high score, and few multiply-accumulates, whose logarithm is what
    the sampler sees. Each trial has a sampler of its own, seeded by the search's seed and the
    trials before it, so that a search that was interrupted goes on as if it had not been.

    Raises:
        ConfigError: there is a search already and it is not resumed, or it was another one; or
            there is none, but a file that is named as its networks would be.
        ModelFileError: the file is no journal.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, is_resumed: bool) -> None:
        path = folder / FILE
        if path.exists() and not is_resumed:
            raise ConfigError(
                f"--out {folder}: holds a search already; add --resume to go on with it, or name "
                "another folder"
            )
        if not path.exists():
            _require_no_networks(folder)
        _drop_unfinished_line(path)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                storage=storage,
                study_name=_STUDY,
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise ModelFileError(f"{path}: is no journal of a search: {error}") from error
        self._seed = int(settings["seed"])
        known = self._study.user_attrs.get("settings")
        if known is None:
            self._study.set_user_attr("settings", settings)
            self._study.enqueue_trial(FIRST_TRIAL)
        else:
            _require_same(folder, known, settings)
        for trial in self._trials(TrialState.RUNNING):  # left over by an interruption
            self._study.tell(trial.number, state=TrialState.FAIL)

    def ask(self, space: Space) -> Running:
        """The next candidate, which now counts as running."""
        counted = TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING
        seed = np.random.SeedSequence([self._seed, len(self._trials(*counted))])
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=_RANDOM_TRIALS, seed=int(seed.generate_state(1)[0])
        )
        trial = self._study.ask()
        candidate = space.draw(cast(Any, trial))  # Optuna declares choices more widely
        parameters, macs = space.cost(candidate.spec)
        facts = {"candidate": msgspec.to_builtins(candidate), "cost": [parameters, macs]}
        trial.set_user_attr("facts", facts)
        return Running(trial.number, trial, candidate, parameters, macs, [])

    def trained(self, trial: Running, score: float, seconds: float) -> None:
        """The candidate is trained; its score counts from now on."""
        _note(trial, seconds, "")
        self._study.tell(trial.number, [score, float(np.log2(max(1, trial.macs)))])

    def stopped(self, trial: Running, seconds: float, reason: str) -> None:
        """The candidate was given up for what it showed."""
        _note(trial, seconds, reason)
        self._study.tell(trial.number, state=TrialState.PRUNED)

    def abandoned(self, number: int) -> None:
        """The candidate's training was cut off; it counts as never tried."""
        self._study.tell(number, state=TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """Every candidate that was tried, in the order of their numbers."""
        return [_told(t) for t in self._trials(TrialState.COMPLETE, TrialState.PRUNED)]

    def numbers(self) -> list[int]:
        """Of every trial that was ever begun; files of these numbers are the search's own."""
        return [trial.number for trial in self._study.get_trials(deepcopy=False)]

    def _trials(self, *states: TrialState) -> Sequence[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)


def _note(trial: Running, seconds: float, reason: str) -> None:
    # Optuna takes no values between for two objectives, so the curve stands beside them.
    outcome = {"curve": trial.curve, "seconds": seconds, "reason": reason}
    trial.notes.set_user_attr("outcome", outcome)


def _told(trial: FrozenTrial) -> Trial:
    facts, outcome = trial.user_attrs["facts"], trial.user_attrs["outcome"]
    is_trained = trial.state == TrialState.COMPLETE
    parameters, macs = facts["cost"]
    curve = tuple(outcome["curve"])
    return Trial(
        number=trial.number,
        candidate=msgspec.convert(facts["candidate"], Candidate),
        parameters=parameters,
        macs=macs,
        state="trained" if is_trained else "stopped",
        score=trial.values[0] if is_trained else max(curve, default=None),
        curve=curve,
        seconds=outcome["seconds"],
        reason=outcome["reason"],
    )


def _require_same(folder: Path, known: dict[str, Any], asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if known.get(name) != value:
            raise ConfigError(
                f"--resume {folder}: the search there has {name} {known.get(name)!r}, now it is "
                f"{value!r}; give the same, or name another folder"
            )


def _require_no_networks(folder: Path) -> None:
    """Networks that no search wrote would be overwritten by those of its trials."""
    numbered = [f.name for f in folder.glob(file_name("[0-9]*")) if f.stem.isdecimal()]
    if numbered:
        raise ConfigError(
            f"--out {folder}: holds {min(numbered)}, which a search would take for a network of "
            "its own; name another folder"
        )


def _drop_unfinished_line(path: Path) -> None:
    """A process that was killed while it wrote leaves half a line, which would spoil the next."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
