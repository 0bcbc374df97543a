"""A Prefect server for one command where there is no other: it starts beside it and ends with it.

The temporary server that Prefect starts by itself shares the terminal with the command: a Ctrl-C ends it
first, and the night cannot say how it ended. It also outlives a command that is killed.
"""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import NightcastError
from flows import leash
from flows.imports import importing
from flows.loopback import HOST, answers

START_SECONDS = 120.0
STOP_SECONDS = 10.0


class ServerFailed(NightcastError):
    """The temporary Prefect server did not start."""


class Server:
    """A Prefect server that is starting or up, on a port that the system chose.

    Attributes:
        url: of its API.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        with socket.create_server((HOST, 0)) as listener:
            self.url = f"http://{HOST}:{listener.getsockname()[1]}/api"
            descriptor = listener.fileno()
            self.process = leash.start(
                __name__,
                str(descriptor),
                log=log,
                environment={"PREFECT_SERVER_UI_ENABLED": "false"},
                pass_fds=(descriptor,),
            )

    @contextmanager
    def used(self) -> Iterator[None]:
        """Flows inside the block run against it, once it answers.

        Raises:
            ServerFailed: it ended, or was silent for too long; shows its log's end.
        """
        self._wait()
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self.url}):
            yield

    def stop(self) -> None:
        """End it."""
        leash.release([self.process], STOP_SECONDS)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.url}/health"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(
                    "Prefect's temporary server did not start. Remedy: see to the reason below, or export "
                    f"PREFECT_API_URL of a server that is up.\n{leash.tail(self._log)}"
                )
            time.sleep(0.1)


class Elsewhere:
    """A Prefect server that PREFECT_API_URL names."""

    @contextmanager
    def used(self) -> Iterator[None]:
        """A block that uses it.

        Raises:
            DeployFailed: it does not answer.
        """
        # Late: it imports what takes long.
        from flows.deploy import answering_server

        answering_server()
        yield


def start(home: Path) -> Server | Elsewhere:
    """A Prefect server for the rest of this process; the one that PREFECT_API_URL names where it is set.

    Call it before importing what takes long: it starts meanwhile, and is waited for by `used`.
    """
    if os.environ.get("PREFECT_API_URL"):
        return Elsewhere()
    made = Server(home / "logs" / "prefect.log")
    # Prefect sends its last logs and events when the interpreter ends. What was registered first ends last.
    atexit.register(made.stop)
    return made


def main(descriptor: str) -> None:
    """The server's process: it listens on a socket that its parent opened."""
    with importing():
        import uvicorn
        from filelock import FileLock
        from prefect.server.api.server import create_app
        from prefect.settings import PREFECT_HOME

    folder = PREFECT_HOME.value()
    folder.mkdir(parents=True, exist_ok=True)

    class OneAtATime(uvicorn.Server):
        """Two servers that make the tables of one fresh database at once break it."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            with FileLock(folder / "start.lock"):
                await super().startup(sockets)

    app = create_app(ephemeral=True, final=True)
    with socket.socket(fileno=int(descriptor)) as listener:
        OneAtATime(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
