"""Sweeps: many pictures by the host's own sampler, each found again on disk."""
