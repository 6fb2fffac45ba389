"""Processes that prepare the parts of a source.

`python -m bigmodel.data.worker` takes one JSON task a line and answers each with one line. A
process of its own, rather than multiprocessing: it never imports jax, whose threads a fork would
break; it does not run the user's script again; and it ends when its parent does, even by kill -9.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO, cast

from bigmodel import config
from bigmodel.data import prepare, sources, tokenizers


def run(
    parts: Sequence[sources.Part],
    preparation: prepare.Preparation,
    folder: pathlib.Path,
    processes: int,
    done: Callable[[int], None],
) -> list[prepare.Counts]:
    """`prepare` of each part into files FOLDER/NUMBER.*; `done(number)` as each part ends."""
    settings = preparation.packed()
    tasks = [
        {"part": part, "preparation": settings, "prefix": f"{folder}/{number:06}"}
        for number, part in enumerate(parts)
    ]
    workers = [Worker() for _ in range(min(processes, len(tasks)))]
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def ask(task: dict[str, Any]) -> prepare.Counts:
        worker = idle.get()
        try:
            return worker.ask(task)
        finally:
            idle.put(worker)

    pool = concurrent.futures.ThreadPoolExecutor(len(workers))
    try:
        answers = {pool.submit(ask, task): number for number, task in enumerate(tasks)}
        for answer in concurrent.futures.as_completed(answers):
            answer.result()
            done(answers[answer])
        return [answer.result() for answer in answers]
    finally:
        for worker in workers:
            worker.kill()  # all have answered, or one has failed: then the others need not end
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class Worker:
    """A process that does one task at a time."""

    def __init__(self):
        package = str(pathlib.Path(prepare.__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        # One thread a worker: the libraries' own threads would fight over the same cores.
        single = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        # A terminal's Ctrl-C reaches them too, and it is this process that answers it: the mask is
        # inherited, so that they never see it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bigmodel.data.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **single, "PYTHONPATH": path},
                text=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._tasks = cast(TextIO, self._process.stdin)
        self._answers = cast(TextIO, self._process.stdout)

    def ask(self, task: dict[str, Any]) -> prepare.Counts:
        """Hands over a task and waits for what it counted."""
        try:
            self._tasks.write(json.dumps(task) + "\n")
            self._tasks.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(
                f"A worker process died on {task['part']} (exit status {self._process.wait()}); "
                "what it said stands above. If it ran out of memory, use fewer workers."
            )
        answer = json.loads(line)
        if "input_error" in answer:
            raise config.InputError(answer["input_error"])
        return answer["counts"]

    def kill(self) -> None:
        """Ends the process at once; whoever waits for an answer gets an error."""
        self._process.kill()

    def close(self) -> None:
        """Waits for the end of a killed process."""
        self._process.wait()
        self._answers.close()
        with contextlib.suppress(BrokenPipeError):  # a task that it did not read
            self._tasks.close()


def serve(lines: Iterable[str], answer: Callable[[str], None]) -> None:
    """The worker's side: one task a line."""
    loaded: dict[str, tokenizers.Tokenizer] = {}
    for line in lines:
        task = json.loads(line)
        prefix = pathlib.Path(task["prefix"])
        try:
            preparation = prepare.Preparation.unpacked(task["preparation"])
            name = preparation.tokenizer
            if name not in loaded:
                loaded[name] = tokenizers.load(name)
            documents = sources.read(task["part"])
            counts = prepare.prepare(documents, preparation, loaded[name], prefix)
            answer(json.dumps({"counts": counts}))
        except config.InputError as error:
            answer(json.dumps({"input_error": str(error)}))


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers

    def reply(line: str) -> None:
        print(line, file=replies, flush=True)

    serve(sys.stdin, reply)
