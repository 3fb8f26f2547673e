"""What is trained before it ends in one file or another: a network, and the steps to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from compress.recipe import Recipe
from compress.technique import Report, Technique
from hlserve.nn.network import Network


@dataclass(frozen=True, slots=True)
class Stem:
    """Steps from the original, the last of which mostly trains.

    Attributes:
        name: what was done, in words.
        family: what kind of candidate comes of it, for the report.
        steps: all of them, from the original on.
        n_shared: how many of them made the parent, which is made already.
    """

    name: str
    family: str
    steps: tuple[Technique, ...] = ()
    n_shared: int = 0

    def grown(self, name: str, family: str, *steps: Technique) -> Self:
        """A stem that goes on from this one."""
        return type(self)(name, family, (*self.steps, *steps), len(self.steps))

    @property
    def parent_key(self) -> str:
        """The key of the stem that this one goes on from."""
        return key_of(self.steps[: self.n_shared])

    @property
    def key(self) -> str:
        """What tells stems of one search apart: the digest of their steps."""
        return key_of(self.steps)


@dataclass(frozen=True, slots=True)
class Grown:
    """A stem and the network that came of it.

    Attributes:
        reports: one for each step, from the original on.
        seconds: how long its own steps took.
    """

    stem: Stem
    network: Network
    reports: tuple[Report, ...]
    seconds: float


def key_of(steps: tuple[Technique, ...]) -> str:
    """The digest of some steps; empty for none, which are the original."""
    if not steps:
        return ""
    return hashlib.sha256(Recipe(steps).to_toml().encode()).hexdigest()[:16]
