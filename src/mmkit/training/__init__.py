"""Tuning a model on records: the λ-weighted token loss, batches, the trainer, what it leaves behind.

Importing this package imports no torch; `mmkit.training.finetune.finetune` does the work.
"""

from __future__ import annotations

from mmkit.training.config import Placement, StepReport, TuneConfig, TuneReport
from mmkit.training.samples import Refused, Sample, sample_of

__all__ = ["Placement", "Refused", "Sample", "StepReport", "TuneConfig", "TuneReport", "sample_of"]
