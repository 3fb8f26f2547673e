"""Attention, and what a transformer block is made of."""

from __future__ import annotations

from tests.nn.cases.case import Case

CASES: tuple[Case, ...] = ()
