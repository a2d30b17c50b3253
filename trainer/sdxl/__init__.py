"""Stable Diffusion XL for training: its files, and its networks around weights that somebody else owns."""
