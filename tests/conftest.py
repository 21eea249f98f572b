"""Hypothesis profiles: no deadline on shared machines, in CI the same examples every time. Interrupts are heard."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("dev", **_common)
settings.register_profile("ci", derandomize=True, database=None, **_common)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# A shell starts its background jobs deaf to SIGINT, and so would be every command that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
