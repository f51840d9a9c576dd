"""The ports that tests give to programs."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest
from fronts import free_port


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux gives ports")
def test_a_port_that_a_program_is_to_listen_on_is_given_to_nobody_else():
    """Of 28,000 ports 600 are taken: without care some of the 300 would be among them."""
    kept = {free_port() for _ in range(300)}
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(socket.create_server(("", 0))) for _ in range(600)]
        assert not kept & {other.getsockname()[1] for other in others}
    for port in kept:
        socket.create_server(("127.0.0.1", port)).close()
