"""The loopback interface, where our own servers listen: reached directly, past any proxy."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

HOST = "127.0.0.1"

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def leave_out_proxies() -> None:
    """Let this process and its children, Prefect and MLflow among them, reach `HOST` without a proxy."""
    names = ("no_proxy", "NO_PROXY")
    # Of the two spellings most clients read one, the lower case first.
    before = next(filter(None, map(os.environ.get, names)), "")
    hosts = [host for host in before.split(",") if host]
    if HOST not in hosts:
        hosts.append(HOST)
    os.environ.update(dict.fromkeys(names, ",".join(hosts)))


def answers(url: str, seconds: float = 5.0) -> bool:
    """Whether a server of this machine answers, and that it is well."""
    try:
        with _DIRECT.open(url, timeout=seconds) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
