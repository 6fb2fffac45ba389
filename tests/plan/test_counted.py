"""Laws of counting what a program moves, on one that is small enough to count by hand."""

from tests import runs
from tests.plan import programs

# Two turns of an outer loop; in each a windowed einsum of two trips (bound 4, step 2) sends twice,
# and one gather is started, carried on and ended by fusions that share its chain.
PROGRAM = (runs.ROOT / "tests" / "golden" / "scheduled.txt").read_text()
LAYERS = "%layers = s32[] constant(2)"


def counted(text):
    """Runs of each collective, by kind, bytes that go in, and devices."""
    found = {}
    devices = programs.net(shape=(2, 4), mesh={"fsdp": 2, "tensor": 4})
    for one, (times, _, _) in programs.spent(text, devices).collectives.items():
        key = one.kind, one.bytes, one.devices
        found[key] = found.get(key, 0) + round(times)
    return found


def test_a_collective_counts_by_what_goes_in_and_its_trips():
    assert counted(PROGRAM) == {
        ("all-gather", 64, 8): 2,  # its fusions are one, in each of two layers
        ("collective-permute", 64, 4): 8,  # of a start and its done, and of one that is neither
        ("all-reduce", 256 + 32, 4): 1,
        ("reduce-scatter", 256, 8): 1,  # an all-reduce of which a part is kept
        ("ragged-all-to-all", 64, 4): 1,  # of its operands only the rows move
    }


def test_a_loop_around_it_makes_it_more():
    often = counted(PROGRAM.replace(LAYERS, LAYERS.replace("2", "3")))
    assert often["all-gather", 64, 8] == 3
    assert often["collective-permute", 64, 4] == 12
