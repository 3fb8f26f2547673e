"""Structured pruning: units that matter least are removed."""

from compress.pruning.channels import PruneChannels as PruneChannels
from compress.pruning.costs import Costs as Costs
from compress.pruning.costs import costs as costs
from compress.pruning.groups import Group as Group
from compress.pruning.groups import groups as groups
from compress.pruning.groups import width_grid as width_grid
from compress.pruning.losses import GroupLoss as GroupLoss
from compress.pruning.losses import pruning_losses as pruning_losses
