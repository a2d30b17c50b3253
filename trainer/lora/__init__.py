"""The LoRA file, written as other tools expect it and read whoever wrote it."""
