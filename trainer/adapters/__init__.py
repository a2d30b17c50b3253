"""The adapters: made by peft, computed here."""
