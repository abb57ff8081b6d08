"""Names under which the nodes leave their results in CONDITIONING, and the model finds them."""

from __future__ import annotations

BOUNDARIES = "vino_boundaries"
"""One (row of the vision start, row of the vision end) per reference."""

REFERENCES = "vino_references"
"""Which of the request's references the branch sees, by their index."""

BEHIND = "vino_behind"
"""How many of the reference latents, the last ones, stand behind the target."""

FIRST_FRAME = "vino_first_frame"
"""Unscaled latent of the frame that the result begins with, for every branch: also for those that do not see it."""

SYSTEM = "vino_system"
"""Name of the system whose text encoder made the conditioning."""

LEARNABLE = "vino_learnable"
"""Number of learnable tokens that the conditioning was made with, 0 for none."""

ABSENT = "vino_absent"
"""Why a branch was not encoded: raised when it is evaluated all the same."""

SAME_AS_NEGATIVE = "vino_same_as_negative"
"""Set when the third branch has no image to drop, so that it would only repeat the second."""
