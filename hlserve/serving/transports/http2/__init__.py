"""gRPC by our own HTTP/2: the transport that costs little for each request."""

from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.server import Http2Server

__all__ = ["Http2Limits", "Http2Server"]
