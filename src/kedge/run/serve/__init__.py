"""Agents behind a port: `kedge serve`."""

from __future__ import annotations

import kedge.client  # noqa: F401  says what to install, where that is missing
from kedge.run.serve.limits import Limits
from kedge.run.serve.server import Server

__all__ = ["Limits", "Server"]
