"""Recommenders: one file each, ``build(schema, *, ...) -> nn.Module``."""
