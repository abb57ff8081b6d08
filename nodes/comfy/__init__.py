"""Adapters between ComfyUI's own classes and `vino_core`."""
