"""VINO for ComfyUI: generate and edit pictures and videos from interleaved text, picture and video references."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
