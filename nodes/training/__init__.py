"""Nodes that train, and their settings."""
