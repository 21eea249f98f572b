"""The health of one of several servers: when it is left out, asked for a sign of life, and trusted again."""

from __future__ import annotations

import random
import time

from mmkit.engines.openai.http import LONGEST_PAUSE_S, Failure, Server

STRIKES = 3
"""A server is left out after so many tries in a row that brought no answer of use."""

_LONGEST_BACKOFF_S = 60.0


class Replica:
    """A server and what is known of its health. All streams of an engine share it.

    A replica is *out* after a refused connection, after `STRIKES` failures in a row, and where it denies what it has
    granted before. Then it is asked for its models, after pauses that double. Once it answers it is *on trial*: it gets
    one request at a time until it has answered one, and the first failure puts it out again.
    """

    def __init__(self, server: Server, backoff_s: float) -> None:
        self.server = server
        self.reached = False  # has been connected to
        self.proven = False  # has answered a request
        self.out = False
        self.on_trial = False
        self.paused_until = 0.0  # on the monotonic clock
        self._backoff_s = backoff_s
        self._strikes = 0
        self._times_out = 0  # without an answer in between
        self._probe_at = 0.0

    @property
    def paused(self) -> bool:
        """Whether it has asked to be left alone for now."""
        return time.monotonic() < self.paused_until

    def answered(self) -> None:
        """It does its work, be it that a request was not to its liking."""
        self._strikes = self._times_out = 0
        self.out = self.on_trial = False

    def failed(self, failure: Failure) -> None:
        """Note a failure that may be the server's fault. It may be paused or out afterwards."""
        pause_s = self._backoff_s if failure.pause_s is None else failure.pause_s
        if failure.busy and pause_s <= LONGEST_PAUSE_S:
            self.paused_until = max(self.paused_until, time.monotonic() + pause_s)
        elif not self.out:
            self._strikes += 1
            if failure.unreached or not failure.retry or self.on_trial or self._strikes >= STRIKES:
                self._put_out()

    def probe_due(self) -> bool:
        """Whether it is out and should be asked for a sign of life now. Then nobody else need ask for a while."""
        now = time.monotonic()
        if not self.out or now < self._probe_at:
            return False
        self._probe_at = now + _LONGEST_BACKOFF_S
        return True

    def probed(self, alive: bool) -> None:
        """Note what came of asking."""
        if self.out and alive:
            self.out, self.on_trial = False, True
        elif self.out:
            self._put_out()

    def _put_out(self) -> None:
        self.out, self.on_trial, self._strikes = True, False, 0
        self._probe_at = time.monotonic() + backoff(2 * self._backoff_s, self._times_out)
        self._times_out += 1


def backoff(first_s: float, times_before: int) -> float:
    """A pause (seconds) that doubles each time, up to a minute."""
    longest = min(first_s * 2.0 ** min(times_before, 16), _LONGEST_BACKOFF_S)
    # Jitter keeps the requests of one window from coming back all at once. It decides no result.
    return longest * random.uniform(0.5, 1.0)
