"""Social robot head control in conversation: two voices in, a moving head out."""

__version__ = "0.1.0"
