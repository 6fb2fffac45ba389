"""What processes must agree on before they go on together, through jax's coordination service.

Not by collectives: one between processes that do not all come hangs, without a word, and on CPU
gives up after 30 s.
"""

import faulthandler
import itertools
import socket
import sys
import threading

import jax

from bigmodel import compat, config

TURNS = itertools.count()  # the same on every process: all of them make the same calls in turn
WAIT_SECONDS = 1800.0
TELL_SECONDS = 30.0  # after so long it is said who is waited for
TELL_AGAIN_SECONDS = 300.0


class MissingError(RuntimeError):
    """Some process has not come where all were waited for."""


class AgreedError(config.InputError):
    """A refused input that all processes raise at once: each of them ends by itself."""


class OthersError(RuntimeError):
    """What another process has failed at."""


def gathered(what: str, text: str, *, seconds: float = WAIT_SECONDS) -> list[str]:
    """The texts of all processes, on each of them, by process.

    Args:
        what: is waited for, in words: "the checkpoint's step".
        text: of this process.
        seconds: to wait at most.

    Raises:
        MissingError: a process has not come in time; it is named.
    """
    client = compat.coordination()
    if client is None:
        return [text]
    turn = next(TURNS)
    place = f"bigmodel/{turn}/"
    if text:
        client.key_value_set(f"{place}said/{jax.process_index()}", text)
    meet(client, place, what, seconds)
    said = dict(client.key_value_dir_get(f"{place}said"))
    if jax.process_index() == 0 and turn > 1:  # all have left the turn before: they are here
        client.key_value_delete(f"bigmodel/{turn - 2}/")
    return [said.get(f"{place}said/{number}", "") for number in range(jax.process_count())]


def wait(what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Returns when every process has come here; raises as `gathered` does."""
    gathered(what, "", seconds=seconds)


def from_process_0(number: int, what: str) -> int:
    """Process 0's number, on every process; `what` it decides, in words."""
    return int(gathered(what, str(int(number)) if jax.process_index() == 0 else "")[0])


def agreed(fault: str, what: str, *, seconds: float = WAIT_SECONDS) -> str:
    """A fault of any process is a fault of all: what the first one that has any says, or ""."""
    return next((said for said in gathered(what, fault, seconds=seconds) if said), "")


def meet(client, place: str, what: str, seconds: float) -> None:
    """A barrier that says who is late, and at last who is missing."""
    client.key_value_set(f"{place}came/{jax.process_index()}", socket.gethostname())
    done = threading.Event()
    teller = threading.Thread(target=tell, args=(client, place, what, done), daemon=True)
    teller.start()
    try:
        client.wait_at_barrier(place, timeout_in_ms=int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        late = named(missing(client, place))
        faulthandler.dump_traceback(file=sys.stderr)
        raise MissingError(
            f"waited {seconds:.0f} s for {what}, and {late} did not come. Its log says why, "
            f"or its host is gone."
        ) from None
    finally:
        done.set()


def tell(client, place: str, what: str, done: threading.Event) -> None:
    """Says now and then who is waited for."""
    waited, pause = 0.0, TELL_SECONDS
    while not done.wait(pause):
        waited, pause = waited + pause, TELL_AGAIN_SECONDS
        try:
            late = missing(client, place)
        except jax.errors.JaxRuntimeError:  # the service is gone: what waits is told that
            return
        if late and not done.is_set():
            print(f"waiting {waited:.0f} s for {what}: {named(late)} is late", file=sys.stderr)


def missing(client, place: str) -> list[int]:
    """Numbers of the processes that have not come."""
    came = {int(key.rsplit("/", 1)[1]) for key, _ in client.key_value_dir_get(f"{place}came")}
    return [number for number in range(jax.process_count()) if number not in came]


HOSTS: dict[int, str] = {}  # process -> its host, as the roll call found them
MOST_NAMED = 8


def named(processes: list[int]) -> str:
    """Processes with their hosts, in words."""
    shown = [
        f"process {number}" + (f" ({HOSTS[number]})" if number in HOSTS else "")
        for number in processes[:MOST_NAMED]
    ]
    more = len(processes) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
