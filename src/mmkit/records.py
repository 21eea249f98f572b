"""The record and the row tables: what fields mean, what is accepted, how a row is written.

A record is a plain dict with the bytes it was read from beside it (`mmkit.streams.Row`). This module only looks:
`check` says what is wrong with a record, `normalise` turns the shapes that users have into the canonical one.
"""

from __future__ import annotations
