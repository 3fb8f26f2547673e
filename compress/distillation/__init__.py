"""Training on: plain, or in imitation of a teacher."""

from compress.distillation.distill import Distill as Distill
from compress.distillation.distill import twin as twin
from compress.distillation.fine_tune import FineTune as FineTune
