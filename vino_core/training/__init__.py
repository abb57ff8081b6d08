"""Training: examples, data, losses, stages, the loop (VINO paper sections 2.3 and 3.1)."""
