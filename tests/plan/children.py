"""Requests of a tiny step, and what children write that only pretend to compile it."""

import json

import bigmodel
from bigmodel import plan as planning

TINY = {"model.dtype": "bfloat16", "mesh.fsdp": -1, "batch": 8, "data.length": 128}


def request(where="cpu:8", changes=None, **options):
    loaded = bigmodel.load_config("configs/llama.py:tiny")
    loaded = planning.changed(loaded, list((TINY | (changes or {})).items()))
    return planning.make_request(loaded, where, **options)


def json_file(name, value):
    """Written as the child itself does: whole or not there."""
    return f"""echo '{json.dumps(value)}' > $F/waiting; mv $F/waiting $F/{name}.json"""


META = json_file("meta", {"mesh": {}})
WRITTEN = f"""{META}
echo 'ENTRY %main () -> f32[] {{' > $F/m.after_optimizations_after_buffer_assignment.txt
echo '}}' >> $F/m.after_optimizations_after_buffer_assignment.txt
echo 'BufferAssignment:' > $F/m-buffer-assignment.txt
echo 'Memory Space HBM' > $F/m-memory-usage-report.txt
"""


def error(kind, text):
    return json_file("error", {"kind": kind, "text": text})


OVERFULL = "RESOURCE_EXHAUSTED: E1000: Ran out of memory on HBM. Used 9G of 8G.\\nSee https://x"
