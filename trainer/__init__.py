"""Mjesec's trainer: an SDXL LoRA from a folder of images. It knows nothing of ComfyUI.

Importing it is cheap; the networks' libraries are imported by the modules that need them.
"""
