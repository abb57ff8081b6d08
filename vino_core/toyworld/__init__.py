"""A procedural world of sprites: pictures, clips, edits and references with ground truth, and exact scorers."""
