"""Stages that ask a model: an engine is passed in, rows and outcomes as everywhere."""
