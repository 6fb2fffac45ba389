"""Who is there: all processes of a job meet at the first one's address, before jax does.

jax's own meeting ends a process without a word that Python could say when one of them does not
come. This one says who is missing, and refuses a job whose processes are not of one kind. It uses
the port that jax's service takes right after it, so no other port needs to be open.
"""

import json
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigmodel import config

LINE_BYTES = 65536


class AbsentError(RuntimeError):
    """The job is not complete, or its first process cannot be reached."""


class Place(NamedTuple):
    """Where a job meets.

    Attributes:
        address: "host:port" of process 0.
        processes: how many there are.
        process: which one this is.
    """

    address: str
    processes: int
    process: int


def meet(place: Place, about: Mapping[str, Any], *, seconds: float) -> list[str]:
    """The host of every process, once all are there.

    Args:
        place: where they meet.
        about: what must be the same on all of them, by name: the code's hash, versions, ...
        seconds: to wait at most.

    Raises:
        AbsentError: a process has not come, or the first one cannot be reached; it is named.
        InputError: processes differ in `about`; the odd ones are named.
    """
    host, _, port = place.address.rpartition(":")
    own = {"process": place.process, "host": socket.gethostname(), "about": dict(about)}
    if place.process:
        answer = report((host, int(port)), own, place, seconds)
    else:
        answer = receive(int(port), own, place, seconds)
    if answer.get("refused"):
        raise config.InputError(answer["refused"])
    if answer.get("absent"):
        raise AbsentError(answer["absent"])
    return answer["hosts"]


def receive(port: int, own: dict, place: Place, seconds: float) -> dict[str, Any]:
    """Process 0's part: waits for all, and tells each what came of it."""
    end = time.monotonic() + seconds
    present = {0: own}
    waiting: list[socket.socket] = []
    lines: dict[int, socket.socket] = {}
    with listening(port, place) as server:
        try:
            while len(present) < place.processes and (left := end - time.monotonic()) > 0:
                server.settimeout(left)
                try:
                    other, _ = server.accept()
                except TimeoutError:
                    break
                waiting.append(other)
                if said := read(other, 5.0):
                    number = said["process"]
                    if number in present and (not number or is_open(lines[number])):
                        return tell(waiting, {"refused": twice(present, said, place)})
                    present[number], lines[number] = said, other
            return tell(waiting, verdict(present, place, seconds))
        finally:
            for other in waiting:
                other.close()


def listening(port: int, place: Place) -> socket.socket:
    server = socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if server.family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        server.bind(("", port))
    except OSError as error:
        server.close()
        raise AbsentError(
            f"port {port} on {socket.gethostname()}, where the job is to meet ({place.address}), "
            f"cannot be used: {error.strerror}. Another job may hold it: end that, or choose "
            f"another port (JAX_COORDINATOR_PORT, or the port in BIGMODEL_COORDINATOR)."
        ) from None
    server.listen(1024)
    return server


def verdict(present: Mapping[int, dict], place: Place, seconds: float) -> dict[str, Any]:
    """What all are told: the hosts, or who is missing, or who is of another kind."""
    late = [number for number in range(place.processes) if number not in present]
    if late:
        here = ", ".join(f"{number} ({present[number]['host']})" for number in sorted(present)[:8])
        missing = ", ".join(map(str, late[:8])) + (f" and {len(late) - 8} more" * (len(late) > 8))
        return {
            "absent": f"of {place.processes} processes {len(late)} did not come to {place.address} "
            f"within {seconds:.0f} s: missing {missing}; here are {here}. Start the same command "
            f"on every host."
        }
    if odd := differences(present):
        return {"refused": odd}
    return {"hosts": [present[number]["host"] for number in range(place.processes)]}


def differences(present: Mapping[int, dict]) -> str:
    """What is not the same on all processes, with those that differ from process 0; or ""."""
    first = present[0]["about"]
    for name, value in first.items():
        odd = [number for number in sorted(present) if present[number]["about"].get(name) != value]
        if odd:
            number = odd[0]
            others = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            return (
                f"{name} must be the same on all hosts: {value} on process 0 "
                f"({present[0]['host']}), {present[number]['about'].get(name)} on process "
                f"{number} ({present[number]['host']}){others}. Start all of them from the same "
                f"code and the same command."
            )
    return ""


def is_open(line: socket.socket) -> bool:
    """Whether who is at the other end still waits; one that was started again does not."""
    line.settimeout(0.0)
    try:
        return line.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def twice(present: Mapping[int, dict], said: dict, place: Place) -> str:
    number = said["process"]
    return (
        f"two processes say that they are number {number} of {place.processes}: on "
        f"{present[number]['host']} and on {said['host']}. Each host's number must be its own."
    )


def tell(others: list[socket.socket], answer: dict[str, Any]) -> dict[str, Any]:
    for other in others:
        try:
            other.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:  # it has gone: whoever meets jax's service without it will say so
            continue
    return answer


def report(address: tuple[str, int], own: dict, place: Place, seconds: float) -> dict[str, Any]:
    """Another process's part: says that it is there, and waits for the answer."""
    end = time.monotonic() + seconds + 5.0  # process 0 began to wait later, or knows more
    fault = "no answer"
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(left, 5.0)) as server:
                server.sendall(json.dumps(own).encode() + b"\n")
                if answer := read(server, left):
                    return answer
        except OSError as error:
            fault = error.strerror or str(error)
        time.sleep(0.2)
    return {
        "absent": f"process {place.process} ({socket.gethostname()}) of {place.processes} found no "
        f"process 0 at {place.address} within {seconds:.0f} s ({fault}). Start the same command on "
        f"every host, and see that they reach each other at that port."
    }


def read(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """One line of JSON, or {}."""
    connection.settimeout(max(seconds, 0.1))
    try:
        with connection.makefile("rb") as file:
            said = json.loads(file.readline(LINE_BYTES) or b"{}")
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
