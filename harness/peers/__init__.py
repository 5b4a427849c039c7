"""What an engineer would use instead, measured beside our variants on the same artifacts."""
