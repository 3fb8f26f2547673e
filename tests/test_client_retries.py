"""Retries, deadlines and headers, against a small real server that refuses when told to."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from hlserve.client import NO_RETRY, AsyncInferenceClient, InferenceClient, RetryPolicy, Tls
from hlserve.client.retrying import Attempts
from hlserve.errors import ConfigError, ServerError
from hlserve.rpcs import INFERENCE_SERVICE

QUICK = RetryPolicy(attempts=4, first_backoff_s=0.001, largest_backoff_s=0.002)


@dataclass
class Refusing:
    """Answers ``status`` to the first ``refusals`` calls, then an empty message."""

    refusals: int = 0
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    calls: list[dict[str, Any]] = field(default_factory=list)
    deadlines_s: list[float] = field(default_factory=list)

    def answer(self, _data: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls.append(dict(context.invocation_metadata()))
        self.deadlines_s.append(context.time_remaining())
        if len(self.calls) <= self.refusals:
            context.abort(self.status, "come back later")
        return b""


@contextmanager
def serving(refusing: Refusing, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    names = ("ServerLive", "RepositoryModelLoad", "RepositoryModelUnload", "ModelInfer")
    handler = grpc.unary_unary_rpc_method_handler(refusing.answer)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(INFERENCE_SERVICE, dict.fromkeys(names, handler)),)
    )
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def ask(address: str, verb: Callable[[Any], Any], **options: Any) -> Any:
    with InferenceClient(address, **{"timeout_s": 10, "retry": QUICK, **options}) as client:
        return verb(client)


def ask_async(address: str, verb: Callable[[Any], Any], **options: Any) -> Any:
    async def go() -> Any:
        settings = {"timeout_s": 10, "retry": QUICK, **options}
        async with AsyncInferenceClient(address, **settings) as client:
            return await verb(client)

    return asyncio.run(go())


EITHER = pytest.mark.parametrize("asking", [ask, ask_async], ids=["sync", "async"])


@EITHER
@pytest.mark.parametrize("refusals", [0, 1, 3])
def test_a_call_is_sent_until_it_is_taken(asking: Any, refusals: int) -> None:
    refusing = Refusing(refusals)
    with serving(refusing) as address:
        assert asking(address, lambda client: client.is_server_live()) is False
    assert len(refusing.calls) == refusals + 1


@EITHER
def test_after_the_last_attempt_the_refusal_is_told(asking: Any) -> None:
    refusing = Refusing(100)
    with serving(refusing) as address, pytest.raises(ServerError, match="come back") as caught:
        asking(address, lambda client: client.is_server_live())
    assert (caught.value.status, len(refusing.calls)) == ("UNAVAILABLE", QUICK.attempts)


@EITHER
@pytest.mark.parametrize(
    "status",
    [code for code in grpc.StatusCode if code.name not in ("OK", "UNAVAILABLE")],
    ids=lambda code: code.name,
)
def test_no_other_status_is_tried_again(asking: Any, status: grpc.StatusCode) -> None:
    refusing = Refusing(100, status)
    with serving(refusing) as address, pytest.raises(ServerError) as caught:
        asking(address, lambda client: client.is_server_live())
    assert (caught.value.status, len(refusing.calls)) == (status.name, 1)


@EITHER
@pytest.mark.parametrize("verb", ["load_model", "unload_model"])
def test_what_changes_the_server_is_sent_once(asking: Any, verb: str) -> None:
    refusing = Refusing(1)
    with serving(refusing) as address, pytest.raises(ServerError):
        asking(address, lambda client: getattr(client, verb)("m"))
    assert len(refusing.calls) == 1


@EITHER
def test_one_deadline_holds_for_all_attempts(asking: Any) -> None:
    refusing = Refusing(2)
    waits = RetryPolicy(attempts=3, first_backoff_s=0.4, largest_backoff_s=0.4)
    with serving(refusing) as address:
        asking(address, lambda client: client.is_server_live(timeout_s=2), retry=waits)
    for number, remaining_s in enumerate(refusing.deadlines_s):
        # Jitter leaves at least 0.2 s of each wait; gRPC rounds a timeout up, by less than 5 %.
        assert 0 < remaining_s <= 1.05 * (2 - 0.2 * number)


@EITHER
def test_a_wait_that_would_outlast_the_deadline_is_not_begun(asking: Any) -> None:
    refusing = Refusing(100)
    slow = RetryPolicy(attempts=9, first_backoff_s=1000, largest_backoff_s=1000)
    with serving(refusing) as address, pytest.raises(ServerError) as caught:
        asking(address, lambda client: client.is_server_live(timeout_s=20), retry=slow)
    assert (caught.value.status, len(refusing.calls)) == ("UNAVAILABLE", 1)


@EITHER
def test_the_key_and_headers_go_with_every_call(asking: Any) -> None:
    refusing = Refusing()
    with serving(refusing) as address:
        options = {"api_key": "secret", "metadata": {"X-Tenant": "a"}, "compression": "gzip"}
        asking(address, lambda client: client.is_server_live(), **options)
    (headers,) = refusing.calls
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-tenant"] == "a"


@EITHER
def test_nobody_at_home_says_the_address_and_what_to_look_at(asking: Any) -> None:
    with pytest.raises(ServerError) as caught:
        asking("127.0.0.1:1", lambda client: client.is_server_live())
    assert caught.value.status == "UNAVAILABLE"
    assert "cannot connect to 127.0.0.1:1 without TLS" in str(caught.value)
    assert "is a server running there (hlserve serve" in str(caught.value)


@EITHER
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://localhost:1", "expected HOST:PORT or unix:PATH, without a scheme"),
        ("/run/hlserve/socket", "for a socket unix:/run/hlserve/socket"),
        ("localhost", "expected HOST:PORT such as localhost:8001"),
        ("localhost:", "expected HOST:PORT such as localhost:8001"),
        ("::1", r"expected HOST:PORT such as \[::1\]:8001"),
        ("", "expected HOST:PORT such as localhost:8001"),
    ],
)
def test_an_address_that_is_none_says_what_was_expected(
    asking: Any, address: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        asking(address, lambda client: client.is_server_live())


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for who, name in (("server", "models.example"), ("client", "someone@models.example")):
        made = authority.issue_cert(name)
        made.private_key_pem.write_to_path(folder / f"{who}.key")
        made.cert_chain_pems[0].write_to_path(folder / f"{who}.pem")
    return folder


@EITHER
def test_both_sides_show_their_certificates(asking: Any, pem: Path) -> None:
    read = {path.name: path.read_bytes() for path in pem.iterdir()}
    credentials = grpc.ssl_server_credentials(
        [(read["server.key"], read["server.pem"])], read["ca.pem"], require_client_auth=True
    )
    tls = Tls(pem / "ca.pem", pem / "client.pem", pem / "client.key", "models.example")
    refusing = Refusing()
    with serving(refusing, credentials) as address:
        asking(address, lambda client: client.is_server_live(), tls=tls)
        without = Tls(pem / "ca.pem", server_name="models.example")
        for wrong in (without, None):
            with pytest.raises(ServerError) as caught:
                asking(address, lambda client: client.is_server_live(), tls=wrong, retry=NO_RETRY)
            assert caught.value.status == "UNAVAILABLE"
    assert len(refusing.calls) == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RetryPolicy(attempts=0), "attempts is 0, expected at least 1"),
        (lambda: RetryPolicy(first_backoff_s=0), "expected 0 < first <= largest"),
        (lambda: RetryPolicy(first_backoff_s=9, largest_backoff_s=1), "backoff is 9 s to 1 s"),
        (lambda: Tls(certificate=Path("a.pem")), "one of them is missing"),
        (lambda: InferenceClient("a:1", tls=Tls(ca=Path("/absent"))), "cannot read /absent"),
        (lambda: InferenceClient("a:1", compression="zip"), "compression is 'zip', expected"),
    ],
)
def test_a_wrong_setting_is_told(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


@given(
    first_s=st.floats(1e-6, 1e3),
    growth=st.floats(1, 1e6),
    failed=st.integers(1, 10_000),
    seed=st.integers(0, 2**32),
)
def test_a_wait_doubles_up_to_the_largest_and_jitter_takes_up_to_half(
    first_s: float, growth: float, failed: int, seed: int
) -> None:
    policy = RetryPolicy(99, first_s, first_s * growth)
    longest = min(first_s * 2.0 ** min(failed - 1, 900), policy.largest_backoff_s)
    assert longest / 2 <= policy.backoff_s(failed, Random(seed)) <= longest


def test_after_a_deadline_there_is_no_attempt() -> None:
    attempts = Attempts(QUICK, 0.0, Random(0), is_idempotent=True)
    assert attempts.remaining_s() == 0
    assert attempts.pause_s("UNAVAILABLE") is None
