"""Who is there: all processes of a job meet at the first one's address, before jax does.

jax's own meeting ends a process without a word that Python could say when one of them does not
come. This one says who is missing, and refuses a job whose processes are not of one kind. It uses
the port that jax's service takes right after it, so no other port needs to be open.
"""

import json
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigmodel import config

TELL_SECONDS = 50.0  # after which it is told who is missing; the wait may go on
LINE_BYTES = 2**24


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
    end, tell_at = time.monotonic() + seconds, time.monotonic() + TELL_SECONDS
    present = {0: own}
    lines: dict[int, socket.socket] = {}
    opened: list[socket.socket] = []
    heard: queue.Queue[tuple[socket.socket, dict]] = queue.Queue()
    with listening(port, place) as server:
        listen = threading.Thread(target=hear, args=(server, opened, heard, end), daemon=True)
        listen.start()
        try:
            while not complete(present, lines, place) and time.monotonic() < end:
                if time.monotonic() > tell_at:
                    tell_at = end
                    print(absence(present, place, TELL_SECONDS), file=sys.stderr, flush=True)
                try:
                    other, said = heard.get(timeout=0.1)
                except queue.Empty:
                    continue
                if not is_open(other):  # it has gone again
                    continue
                number = said["process"]
                if number >= place.processes or (
                    number in present and (not number or is_open(lines[number]))
                ):
                    return tell([*lines.values(), other], {"absent": twice(present, said, place)})
                present[number], lines[number] = said, other
            return tell(list(lines.values()), verdict(present, place, seconds))
        finally:
            server.close()
            listen.join(1.0)
            for line in opened:
                line.close()


def hear(
    server: socket.socket, opened: list[socket.socket], heard: queue.Queue, end: float
) -> None:
    """Hands on what those say that come, each heard by a thread of its own."""

    def one(other: socket.socket) -> None:
        said = read(other, 5.0)
        if is_greeting(said):  # and no probe of the port
            heard.put((other, said))

    while time.monotonic() < end:
        try:
            server.settimeout(0.2)
            other, _ = server.accept()
        except TimeoutError:
            continue
        except OSError:  # all have come
            return
        opened.append(other)
        threading.Thread(target=one, args=(other,), daemon=True).start()


def is_greeting(said: Mapping[str, Any]) -> bool:
    """Whether it is what `report` sends: anybody may speak to an open port."""
    return (
        isinstance(number := said.get("process"), int)
        and number >= 0
        and isinstance(said.get("host"), str)
        and isinstance(said.get("about"), dict)
    )


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
    if len(present) < place.processes:
        return {"absent": absence(present, place, seconds)}
    if odd := differences(present):
        return {"refused": odd}
    return {"hosts": [present[number]["host"] for number in range(place.processes)]}


def absence(present: Mapping[int, dict], place: Place, seconds: float) -> str:
    """Who is missing, in words."""
    late = [number for number in range(place.processes) if number not in present]
    here = ", ".join(f"{number} ({present[number]['host']})" for number in sorted(present)[:8])
    missing = ", ".join(map(str, late[:8])) + (f" and {len(late) - 8} more" * (len(late) > 8))
    return (
        f"of {place.processes} processes {len(late)} did not come to {place.address} within "
        f"{seconds:.0f} s: missing {missing}; here are {here}. Start the same command on every "
        f"host."
    )


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


def complete(present: dict[int, dict], lines: dict[int, socket.socket], place: Place) -> bool:
    """Whether all are there; who has gone again, before all had come, is not."""
    if len(present) < place.processes:
        return False
    for number in [number for number, line in lines.items() if not is_open(line)]:
        del present[number], lines[number]
    return len(present) == place.processes


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
    if number not in present:
        return (
            f"a process on {said['host']} says that it is number {number}, and there are "
            f"{place.processes}, from 0 on. All must be told the same number of processes."
        )
    return (
        f"two processes say that they are number {number} of {place.processes}: on "
        f"{present[number]['host']} and on {said['host']}. Each host's number must be its own."
    )


def tell(others: list[socket.socket], answer: dict[str, Any]) -> dict[str, Any]:
    for other in others:
        other.settimeout(5.0)
        try:
            other.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:  # it has gone: whoever meets jax's service without it will say so
            continue
    return answer


def report(address: tuple[str, int], own: dict, place: Place, seconds: float) -> dict[str, Any]:
    """Another process's part: says that it is there, and waits for the answer."""
    end = time.monotonic() + seconds + 5.0  # process 0 began to wait later, or knows more
    tell_at = time.monotonic() + TELL_SECONDS
    fault, connected = "no answer", False

    def alone() -> str:
        return (
            f"process {place.process} ({socket.gethostname()}) of {place.processes} found no "
            f"process 0 at {place.address} within {seconds:.0f} s ({fault}). Start the same "
            f"command on every host, and see that they reach each other at that port."
        )

    while (left := end - time.monotonic()) > 0:
        if not connected and time.monotonic() > tell_at:
            tell_at = end
            print(f"waiting on: {alone()}", file=sys.stderr, flush=True)
        try:
            with socket.create_connection(address, timeout=min(left, 5.0)) as server:
                server.sendall(json.dumps(own).encode() + b"\n")
                connected = True
                if answer := read(server, left):
                    return answer
        except OSError as error:
            fault = error.strerror or str(error)
        connected = False
        time.sleep(0.2)
    return {"absent": alone()}


def read(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """One line of JSON, or {}."""
    end, line = time.monotonic() + max(seconds, 0.1), b""
    try:
        while not line.endswith(b"\n") and len(line) < LINE_BYTES:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            part = connection.recv(65536)
            if not part:
                break
            line += part
        said = json.loads(line)
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
