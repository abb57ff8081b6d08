"""Headless engine of VINO: unified image and video generation and editing. Imports neither ComfyUI nor transformers."""

__version__ = "0.1.0"
