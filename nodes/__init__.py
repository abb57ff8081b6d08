"""The ComfyUI side: nodes that validate, call `vino_core` and return."""
