"""hlserve: train, compress and serve networks with hidden layers."""

__version__ = "0.1.0"
