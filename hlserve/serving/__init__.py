"""The serving half: reads the model repository, runs ONNX Runtime, speaks gRPC.

It never imports the making half (``hlserve.nn``, ``compress``); a folder on disk joins them.
"""
