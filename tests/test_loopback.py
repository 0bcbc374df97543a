"""Servers of this machine are reached whatever proxy the environment names."""

from __future__ import annotations

import http.server
import os
import threading

import pytest
import requests

from flows.loopback import HOST, answers, leave_out_proxies

NOWHERE = f"http://{HOST}:9"


@pytest.fixture
def url():
    """A server that answers on the loopback interface, below a proxy that does not."""
    with http.server.ThreadingHTTPServer((HOST, 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{HOST}:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(monkeypatch):
    """An environment with a proxy that is away."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")


def test_a_server_answers_past_a_proxy(url, proxy):
    assert answers(url)
    assert not answers(NOWHERE, 1)


def test_clients_leave_the_proxy_out(url, proxy):
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get(url, timeout=5)
    leave_out_proxies()
    assert requests.get(url, timeout=5).ok


@pytest.mark.parametrize(
    ("lower", "upper", "after"),
    [
        ("", "", HOST),
        ("", "intern.example.com", f"intern.example.com,{HOST}"),
        ("a.example.com", "b.example.com", f"a.example.com,{HOST}"),
        (f"{HOST},c.example.com", "", f"{HOST},c.example.com"),
    ],
)
def test_what_was_left_out_before_stays_so(monkeypatch, lower, upper, after):
    monkeypatch.setenv("no_proxy", lower)
    monkeypatch.setenv("NO_PROXY", upper)
    leave_out_proxies()
    leave_out_proxies()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == after
