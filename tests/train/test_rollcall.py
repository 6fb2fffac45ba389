"""Who is missing, odd or twice there is named, on every process."""

import concurrent.futures
import socket
import time

import pytest

from bigmodel import config
from bigmodel.train import rollcall


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def call(numbers, processes, abouts=None, seconds=3.0):
    """What each of the processes that come gets: its hosts, or an error."""
    address = f"127.0.0.1:{port()}"

    def one(place):
        number, about = place
        try:
            where = rollcall.Place(address, processes, number)
            return rollcall.meet(where, about, seconds=seconds)
        except (rollcall.AbsentError, config.InputError) as error:
            return error

    abouts = abouts or [{}] * len(numbers)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, zip(numbers, abouts, strict=True)))


def test_all_that_come_know_all_hosts():
    assert call([0, 1, 2], 3) == [[socket.gethostname()] * 3] * 3


def test_who_is_missing_is_named_to_those_that_came():
    for error in call([0, 2], 4, seconds=0.5):
        assert isinstance(error, rollcall.AbsentError)
        assert "of 4 processes 2 did not come" in str(error)
        assert "missing 1, 3; here are 0" in str(error)


def test_one_started_alone_says_so():
    (error,) = call([1], 2, seconds=-4.5)
    assert "process 1" in str(error)
    assert "found no process 0" in str(error)


def test_what_differs_is_named_with_its_process():
    abouts = [{"jax's version": "1"}, {"jax's version": "1"}, {"jax's version": "2"}]
    for error in call([0, 1, 2], 3, abouts):
        assert isinstance(error, config.InputError)
        assert "jax's version must be the same on all hosts: 1 on process 0" in str(error)
        assert "2 on process 2" in str(error)


def test_two_with_one_number_are_refused():
    errors = call([0, 1, 1], 3, seconds=5.0)
    assert all("two processes say that they are number 1 of 3" in str(e) for e in errors)


def test_a_process_that_was_started_again_is_no_second_one():
    address = ("127.0.0.1", port())
    place = rollcall.Place(f"{address[0]}:{address[1]}", 2, 0)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(rollcall.meet, place._replace(processes=3), {}, seconds=20.0)
        dead = socket.socket()
        while dead.connect_ex(address):
            dead.close()
            time.sleep(0.02)
            dead = socket.socket()
        dead.sendall(b'{"process": 1, "host": "x", "about": {}}\n')
        dead.close()
        others = [
            pool.submit(rollcall.meet, place._replace(processes=3, process=n), {}, seconds=9.0)
            for n in (1, 2)
        ]
        assert len(first.result()) == len(others[0].result()) == len(others[1].result()) == 3


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        place = rollcall.Place(f"127.0.0.1:{other.getsockname()[1]}", 2, 0)
        with pytest.raises(rollcall.AbsentError, match="cannot be used"):
            rollcall.meet(place, {}, seconds=1.0)


@pytest.mark.parametrize(
    "said",
    [b"", b"GET / HTTP/1.1\n", b"{}\n", b'{"a": 1}\n', b'{"process": "1", "host": 2}\n', b"[1]\n"],
)
def test_what_is_no_greeting_is_passed_over(said):
    address = ("127.0.0.1", port())
    place = rollcall.Place(f"{address[0]}:{address[1]}", 2, 0)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(rollcall.meet, place, {}, seconds=9.0)
        other = socket.socket()
        while other.connect_ex(address):
            other.close()
            time.sleep(0.02)
            other = socket.socket()
        other.sendall(said)  # and holds the line
        pool.submit(rollcall.meet, place._replace(process=1), {}, seconds=9.0)
        assert first.result() == [socket.gethostname()] * 2
        other.close()


def test_who_is_missing_is_told_while_the_others_wait_on(monkeypatch, capfd):
    monkeypatch.setattr(rollcall, "TELL_SECONDS", 0.3)
    call([0], 2, seconds=1.0)
    assert "of 2 processes 1 did not come" in capfd.readouterr().err
