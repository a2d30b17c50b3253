"""A run from beginning to end: its files and their names, its log, what it is asked to do, and who watches it."""
