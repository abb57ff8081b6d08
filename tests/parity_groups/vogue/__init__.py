"""VOGUE's groups of the parity check, in the format of tests/goldens/vogue/README.md."""
