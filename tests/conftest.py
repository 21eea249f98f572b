"""Hypothesis profiles: no deadline on shared machines; in CI the same examples every time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("dev", **_common)
settings.register_profile("ci", derandomize=True, database=None, **_common)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
