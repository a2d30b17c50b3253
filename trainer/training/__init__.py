"""A training step and what it needs: batches, noise, loss, optimizer, memory. Nothing about files of a run or hosts."""
