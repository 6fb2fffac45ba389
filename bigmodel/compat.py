"""All that differs between jax versions and platforms, and what a process sets before it runs."""

import contextlib
import ctypes
import functools
import glob
import importlib.metadata
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)
CUSHION = 96 * 2**20  # bytes

# What Linux shows of TPUs, of NVIDIA's and AMD's GPUs, and of GPUs under Windows.
ACCELERATORS = ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*", "/dev/kfd", "/dev/dxg")


def tune_process() -> None:
    """Sets what a process must set before its first import of jax.

    One arena for malloc: glibc gives threads arenas of their own, whose large blocks are mapped
    afresh each time. And the platform where only the CPU is there: jax would load the TPU's library
    to see, if it is installed to plan with, and that writes to stderr that it finds no TPU.
    """
    mallopt(ARENA_MAX, 1)
    end_with_supervisor()
    if sys.platform == "linux" and not any(map(glob.glob, ACCELERATORS)):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def end_with_supervisor() -> None:
    """This process ends when the one that watches it does, however that ends (Linux)."""
    watched_by = os.environ.get("BIGMODEL_SUPERVISOR")
    if watched_by and sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != int(watched_by):  # it has ended already
            sys.exit(1)


def keep_pages() -> None:
    """From here on freed memory stays with the process; called when all is compiled.

    XLA's CPU client takes the temporaries of a step from malloc, as one block, and gives it back
    after it. By default the block goes back to the system, and every page is faulted in and zeroed
    again at each step: a seventh of its time (docs/performance.md). Kept, a step reuses the pages
    of the one before. While programs compile they are not kept: the compiler's garbage would be.
    """
    mallopt(MMAP_MAX, 0)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    mallopt(TOP_PAD, 64 * 2**20)
    # malloc takes the smallest free block that is large enough. Small objects that live on find
    # room in this one; they would cut into the block of the temporaries, and the next step would
    # need another one as large.
    room, fence = libc("malloc", CUSHION), libc("malloc", 64)
    libc("free", room)
    del fence  # stays, so that the room does not melt into the top of the heap


def process_start() -> float | None:
    """When the kernel started this process, in seconds of `time.time`; None: it does not say."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])
        with open("/proc/uptime") as file:
            uptime = float(file.read().split()[0])
    except OSError:
        return None
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


def mallopt(parameter: int, value: int) -> None:
    """glibc's mallopt(3); nothing where the C library is another one."""
    if hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(parameter, value)


def libc(name: str, argument: int) -> int:
    """A function of the C library that takes and gives a pointer or a size."""
    function = getattr(ctypes.CDLL(None), name)
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return function(argument)


def use_compilation_cache() -> None:
    """Compiled programs are kept for the next start: $BIGMODEL_CACHE or ~/.cache/bigmodel.

    JAX_COMPILATION_CACHE_DIR names another place, and "" for it turns the cache off. Several
    processes on CPU have none unless it is named: process 0 alone writes, each looks for names of
    its own, and so all would wait for the others, and 0 keep no step (train/saved.py).
    """
    import jax

    write_whole()
    alone = jax.process_count() == 1 or jax.default_backend() != "cpu"
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not alone:
        return
    # Joined as text: a pathlib.Path makes a local folder "gs:" of a bucket's gs://.
    jax.config.update("jax_compilation_cache_dir", f"{cache()}/compiled")
    # On disk short programs are worth their file: a restart has a dozen of 0.1 s, for checksums.
    least = 0.3 if "://" in cache() else 0.05
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@functools.cache
def write_whole() -> None:
    """Lets an entry of jax's cache of programs on disk appear whole, in one go.

    jax writes in place: who reads meanwhile warns and compiles; half of a killed writer's stays.
    """
    from jax._src import lru_cache

    put = lru_cache.LRUCache.put

    def put_whole(cache: Any, key: str, value: bytes) -> None:
        place = f"{cache.path / key}-cache"
        if cache.eviction_enabled or "://" in place:  # under jax's lock; a bucket's are whole
            put(cache, key, value)
        elif not os.path.exists(place):
            passing = f"{key}.{uuid.uuid4().hex}"
            put(cache, passing, value)
            os.replace(f"{cache.path / passing}-cache", place)

    lru_cache.LRUCache.put = put_whole  # type: ignore[method-assign,assignment]


def kept_steps() -> str:
    """Where whole compiled steps are kept (train/saved.py): beside the programs, or nowhere."""
    return "" if os.environ.get("JAX_COMPILATION_CACHE_DIR") == "" else f"{cache()}/steps"


def cache() -> str:
    folder = os.path.expanduser(os.environ.get("BIGMODEL_CACHE") or "~/.cache/bigmodel")
    return folder.rstrip("/")


def in_turn(tree: Any) -> Any:
    """The arrays, once they are there where programs with collectives must not overlap.

    On CPU a device's part of a program holds a thread of a small pool while it waits for its
    partners in a collective, and a 33rd program in flight holds one before it begins. With several
    programs in flight all threads can be held by some, which wait for others that get none: for
    ever. TPU and GPU run programs in order.
    """
    import jax

    return jax.block_until_ready(tree) if jax.default_backend() == "cpu" else tree


def splash_gradient(
    kernel: Any, q: Any, k: Any, v: Any, segments: Any, out: Any, lse: Any, grad: Any
) -> tuple[Any, Any, Any]:
    """Gradients of q, k and v by the splash kernel, given the output and log sum exp of a row.

    jax has it inside the kernel's own gradient alone, with that kernel's own output; a ring knows
    the output over all parts of the keys. A private function, the same in jax 0.10 to 0.12.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library

    options = {**kernel.kwargs, "save_residuals": False}
    kept = (q, k, v, segments, None, out, lse, kernel.dq_mask_info, kernel.dkv_mask_info)
    names = (
        *("save_residuals", "mask_value", "is_mqa", "block_sizes", "residual_checkpoint_name"),
        *("mask_function", "attn_logits_soft_cap", "interpret"),
    )
    backward: Any = library._splash_attention_bwd
    grads = backward(*(options[name] for name in names), kept, grad)
    return grads[3:6]


@contextlib.contextmanager
def assumed_cudnn(version: int) -> Iterator[None]:
    """Within it jax traces cuDNN's attention without that library.

    To trace, jax asks it for its version alone, and the compiler asks it for the size of a
    workspace: with and without it the program was the same, workspace 0 (jax 0.10, cuDNN 9.28).

    Args:
        version: what jax is told, such as 91000 for 9.10.0.
    """
    from jax._src.cudnn import fused_attention_stablehlo as library

    asked: Any = library.check_cudnn_version
    library.check_cudnn_version = lambda: version
    try:
        yield
    finally:
        library.check_cudnn_version = asked


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def coordination() -> Any:
    """The client of jax's coordination service, or None in a process that is no job of several.

    It has a barrier and a table of texts that all processes share, and no public name.
    """
    from jax._src import distributed

    return distributed.global_state.client if place()[1] > 1 else None


def place() -> tuple[int, int]:
    """The number of this process and how many there are, before jax has seen a device."""
    from jax._src import distributed

    state: Any = distributed.global_state
    return (0, 1) if state.client is None else (state.process_id, state.num_processes)


def cluster(seconds: int) -> tuple[str, int, int] | None:
    """Address of the first process, how many there are, and which this one is, or None.

    As jax's own detection finds them (Slurm, Open MPI, TPU pods, Kubernetes); it has no public
    name apart from `jax.distributed.initialize`, which does not say what it found.
    """
    from jax._src import clusters

    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, seconds
    )
    address, processes, process, _ = found
    if address is None or processes is None or process is None:
        return None
    return address, processes, process


def on_tpu_vm() -> bool:
    """Whether this is a Cloud TPU machine, whose pod jax finds by asking the metadata server."""
    from jax._src import cloud_tpu_init

    return bool(cloud_tpu_init.running_in_cloud_tpu_vm)
