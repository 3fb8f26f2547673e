"""Structured pruning: units that matter least are removed."""

from compress.pruning.channels import PruneChannels as PruneChannels
