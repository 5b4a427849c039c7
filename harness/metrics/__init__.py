"""Metrics: one file each; a metric's unit and direction are part of its catalog entry."""
