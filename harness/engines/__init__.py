"""Engines: what runs an artifact on a device; one file each, behind one interface."""
