"""Names under which the nodes leave their results in CONDITIONING, and the model finds them."""

from __future__ import annotations

BOUNDARIES = "vino_boundaries"
"""One (row of the vision start, row of the vision end) per reference."""

REFERENCES = "vino_references"
"""Which of the request's references the branch sees, by their index."""

SYSTEM = "vino_system"
"""Name of the system whose text encoder made the conditioning."""

ABSENT = "vino_absent"
"""Why a branch was not encoded: raised when it is evaluated all the same."""

SAME_AS_NEGATIVE = "vino_same_as_negative"
"""Set when the third branch has no image to drop, so that it would only repeat the second."""
