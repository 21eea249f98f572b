"""Batch files, in OpenAI's format: `requests` writes what is asked, `answers` finds what came back."""
