"""All studies, by the system they are about."""

from __future__ import annotations

from .definition import Course
from .vino import VINO
from .vogue import VOGUE

COURSES: tuple[Course, ...] = (VINO, VOGUE)
NAMES = tuple(name for course in COURSES for name in course.names)
"""Of all studies; no two courses have one of the same name."""
