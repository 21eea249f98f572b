"""Tiny models and planted data for tests, examples and users' own continuous integration."""
