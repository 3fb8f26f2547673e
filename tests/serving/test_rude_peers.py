"""Peers that do not speak the protocol, or go away: the server goes on for the others."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

import grpc
import numpy as np
import pytest

from hlserve.client import InferenceClient
from tests.serving.running import RunningServer

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def answers(server: RunningServer) -> bool:
    with InferenceClient(server.address, timeout_s=20) as client:
        return client.infer("mlp", np.zeros((1, 8), np.float32)).model_version == "1"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff" * 5000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        PREFACE + b"\xff" * 9,
        # RST_STREAM of a stream that never was, many times.
        PREFACE + SETTINGS + b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08" * 500,
    ],
    ids=["garbage", "HTTP/1", "a broken frame", "a flood of resets"],
)
def test_a_peer_that_speaks_something_else_is_cut_off(server: RunningServer, sent: bytes) -> None:
    with connect(server.address) as peer:
        peer.sendall(sent)
        with suppress(OSError):  # it may be cut off already
            peer.shutdown(socket.SHUT_WR)
        while read(peer):
            pass
    assert answers(server)


def read(peer: socket.socket) -> bytes:
    try:
        return peer.recv(65536)
    except ConnectionResetError:
        return b""


def test_connections_that_say_nothing_are_no_burden(server: RunningServer) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(server.address))
        assert answers(server)


@pytest.mark.parametrize(
    "leave",
    [
        lambda call, channel: call.cancel(),
        lambda call, channel: channel.close(),
    ],
    ids=["cancel", "close"],
)
def test_a_client_that_goes_away_in_a_call_is_forgotten(
    server: RunningServer, leave: Callable[[grpc.Future, grpc.Channel], object]
) -> None:
    for _ in range(20):
        channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        call = channel.unary_unary(INFER).future(b"", timeout=20)
        leave(call, channel)
        channel.close()
    assert answers(server)
