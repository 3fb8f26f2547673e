"""The trainer: networks with hidden layers in NumPy."""
