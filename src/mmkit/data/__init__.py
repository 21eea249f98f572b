"""Stages over records that need no model."""
