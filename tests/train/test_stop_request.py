"""A signal that comes before a resumed run's first step stops it as one that comes later does."""

import os
import socket
import subprocess
import sys

SCRIPT = """
import os, signal, sys, time, jax
from bigmodel.train import processes
processes.join()
with processes.StopRequest() as request:
    if jax.process_index() == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)  # until both know of it
    for step in range(35, 55):
        if request.agreed(step):
            print("stops at", step)
            break
        time.sleep(0.1)
"""


def test_a_signal_before_the_first_step_of_a_resumed_run_is_heard():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    told = dict(os.environ, JAX_PLATFORMS="cpu", BIGMODEL_COORDINATOR=address, XLA_FLAGS="")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=told | {"BIGMODEL_PROCESSES": "2", "BIGMODEL_PROCESS": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    answers = [process.communicate(timeout=100)[0].split("\n")[0] for process in started]
    assert len(set(answers)) == 1
    assert answers[0].startswith("stops at")
