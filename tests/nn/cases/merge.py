"""Layers of several inputs."""

from __future__ import annotations

from tests.nn.cases.case import Case

CASES: tuple[Case, ...] = ()
