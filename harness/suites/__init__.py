"""Suites: what drives an engine and gives rows; accuracy, agreement, speed and memory."""
