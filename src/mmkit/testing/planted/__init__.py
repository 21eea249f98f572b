"""Small image-text tasks whose answer structure is known, for tests, for the examples and for users' own CI.

`drawn` paints shapes, lines, word cards and signs; `digits` captions real scans; `conversations` trains a base model;
`interaction` plants what each modality tells about an answer; `bimodal` asks the same of notes and of pictures;
`overlap` plants which task holds what another asks. All of it is a function of (seed, kind, index). PIL, numpy and
scikit-learn are imported when a picture is made.
"""

from __future__ import annotations

from mmkit.testing.planted import bimodal, drawn, interaction, overlap
from mmkit.testing.planted.conversations import base_conversations, vocabulary
from mmkit.testing.planted.digits import digits
from mmkit.testing.planted.scene import SIDE, Question, Scene, write, write_pictures

__all__ = [
    "SIDE",
    "Question",
    "Scene",
    "base_conversations",
    "bimodal",
    "digits",
    "drawn",
    "interaction",
    "overlap",
    "vocabulary",
    "write",
    "write_pictures",
]
