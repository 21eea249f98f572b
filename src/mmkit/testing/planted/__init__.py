"""Small image-text tasks whose answer structure is known, for tests, for the examples and for users' own CI.

`drawn` paints shapes, lines, word cards and signs; `digits` captions real scans; `conversations` trains a base model;
`interaction` plants what each modality tells about an answer; `bimodal` asks the same of notes and of pictures. All of
it is a function of (seed, kind, index). PIL, numpy and scikit-learn are imported when a picture is made.
"""

from __future__ import annotations

from mmkit.testing.planted import bimodal, drawn, interaction
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
    "vocabulary",
    "write",
    "write_pictures",
]
