"""docs/systems.md: VINO and VOGUE side by side."""
