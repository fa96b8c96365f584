"""The command's HTTP client against real servers: statuses, redirects, proxies."""

import socket

import pytest

from otel_fastperf.cli.http_client import NoResponseError, http_request
from tests.serving import answering, free_port


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_response_of_any_status_has_headers_and_body(status: int) -> None:
    with answering(status, {"X-Reason": "none"}, b"says why") as (url, received):
        response = http_request("POST", url, timeout=5, headers={"x-sent": "1"}, body=b"{}")
    assert (response.status, response.headers["x-reason"], response.body) == (status, "none", b"says why")
    assert response.is_success is (status == 200)
    assert received[0]["x-sent"] == "1"


def test_the_rest_of_a_long_body_is_not_read() -> None:
    with answering(200, {}, b"12345678") as (url, _received):
        assert http_request("GET", url, timeout=5, most_bytes=4).body == b"1234"


def test_redirects_are_followed_only_on_request() -> None:
    with answering(200, {}, b"there") as (target, _), answering(307, {"location": target}) as (url, _):
        assert http_request("GET", url, timeout=5).status == 307
        assert http_request("GET", url, timeout=5, follow_redirects=True).body == b"there"


def test_a_proxy_is_used_unless_bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, {}, b"from the proxy") as (proxy, _):
        monkeypatch.setenv("http_proxy", proxy)
        assert http_request("GET", "http://shop.invalid", timeout=5).body == b"from the proxy"
        with pytest.raises(NoResponseError):
            http_request("GET", "http://shop.invalid", timeout=5, bypass_proxy=True)
        with pytest.raises(NoResponseError):
            http_request("GET", f"http://127.0.0.1:{free_port()}", timeout=5)


def test_the_error_distinguishes_a_refusal_from_a_timeout() -> None:
    with pytest.raises(NoResponseError) as raised:
        http_request("GET", f"http://localhost:{free_port()}", timeout=5)
    assert (raised.value.refused, raised.value.timed_out) == (True, False)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NoResponseError) as raised:
        http_request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
    assert (raised.value.refused, raised.value.timed_out) == (False, True)
