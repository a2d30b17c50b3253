"""A LoRA on the host's networks, and what its file tells."""
