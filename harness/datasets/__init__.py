"""Data sets: one file each, and ``prepare`` which encodes them all alike."""
