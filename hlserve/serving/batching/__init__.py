"""Many requests, one run, each answer as if it had run alone."""

from hlserve.serving.batching.batcher import DynamicBatcher
from hlserve.serving.batching.pending import Answer, Outcome
from hlserve.serving.batching.run_threads import RunThreads

__all__ = ["Answer", "DynamicBatcher", "Outcome", "RunThreads"]
