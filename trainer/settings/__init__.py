"""What a run does, as frozen values with their rules. Imports nothing heavy."""
