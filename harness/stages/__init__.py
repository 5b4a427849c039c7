"""Stages: what turns one artifact into another; one file each."""
