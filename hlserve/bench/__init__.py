"""Measuring a running server from outside, as its callers see it."""
