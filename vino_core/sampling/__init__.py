"""Schedule, guidance and the Euler sampler."""
