"""Tuning a model on records: the λ-weighted token loss, batches, the trainer, what it leaves behind.

Importing this package imports no torch; `mmkit.training.trainer.finetune` does the work.
"""

from __future__ import annotations

from mmkit.training.config import StepReport, TuneConfig, TuneReport
from mmkit.training.samples import Sample, sample_of

__all__ = ["Sample", "StepReport", "TuneConfig", "TuneReport", "sample_of"]
