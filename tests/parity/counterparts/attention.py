"""Attention, and what a transformer block is made of."""

from __future__ import annotations

from typing import Any

COUNTERPARTS: dict[type, Any] = {}
