"""Weights on disk: the official layout, the native one, and the way between them."""
