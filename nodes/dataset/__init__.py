"""Nodes that make, show and edit what is trained on."""
