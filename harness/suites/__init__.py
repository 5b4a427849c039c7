"""Suites: what drives an engine and gives rows; one file for each kind of question."""
