"""The processes of PostgreSQL that serve our connections, where they run on this machine."""

import os
from typing import Final

import asyncpg
import psutil

# As PostgreSQL names a process after its client: a number of a process says nothing by itself,
# since a server in a container or on another machine counts its own.
CLIENT: Final = "select host(inet_client_addr()) || '(' || inet_client_port() || ')'"


async def lower_priority(connection: asyncpg.Connection, niceness: int) -> None:
    """Give the server's process behind ``connection`` a lower priority.

    PostgreSQL itself knows no priorities. Where its process is elsewhere or not ours to change,
    nothing happens.
    """
    client = await connection.fetchval(CLIENT)
    if client is None:  # over a socket file a process has no such name
        return
    try:
        process = psutil.Process(connection.get_server_pid())
        if client in " ".join(process.cmdline()):
            os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
    except (psutil.Error, PermissionError, ProcessLookupError):
        return
