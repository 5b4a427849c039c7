"""Which compression of a recommender to ship on which runtime, measured."""

__version__ = "0.1.0"
