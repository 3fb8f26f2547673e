"""Layers of several inputs."""

from __future__ import annotations

from typing import Any

COUNTERPARTS: dict[type, Any] = {}
