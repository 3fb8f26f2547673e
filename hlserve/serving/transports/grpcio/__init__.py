"""gRPC by grpcio's asyncio server: the reference transport."""

from hlserve.serving.transports.grpcio.server import GrpcioServer

__all__ = ["GrpcioServer"]
