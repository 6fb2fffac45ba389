"""What an OpenAPI schema of a custom resource says against a document, as the API server would.

The schema beside this file is JobSet's own (github.com/kubernetes-sigs/jobset, Apache-2.0, API
v1alpha2): descriptions and fields that no launch sets are left out. BIGMODEL_JOBSET_CRD names a
file of the whole definition (YAML) to check against instead.
"""

import json
import os
import pathlib
import re

import yaml

KEPT = pathlib.Path(__file__).parent / "jobset_v1alpha2.json"
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}


def jobset():
    path = os.environ.get("BIGMODEL_JOBSET_CRD")
    if not path:
        return json.loads(KEPT.read_text())["openAPIV3Schema"]
    versions = yaml.safe_load(pathlib.Path(path).read_text())["spec"]["versions"]
    return next(row["schema"]["openAPIV3Schema"] for row in versions if row["name"] == "v1alpha2")


def faults(schema, document, path="$"):
    """Sentences on what does not fit: unknown and missing fields, types, values, lengths."""
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(document, int | str) else [f"{path}: is no number or text"]
    if schema.get("type") == "object":
        if not isinstance(document, dict):
            return [f"{path}: is no object"]
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        found = [
            f"{path}: misses {name}" for name in schema.get("required", []) if name not in document
        ]
        for name, value in document.items():
            if name in known or others:
                found += faults(known.get(name, others), value, f"{path}.{name}")
            elif known:
                found.append(f"{path}: has no field {name}")
        return found
    kind = TYPES[schema["type"]]
    if not isinstance(document, kind) or (kind is int and isinstance(document, bool)):
        return [f"{path}: {document!r} is no {schema['type']}"]
    if isinstance(document, list):
        return [
            fault
            for number, item in enumerate(document)
            for fault in faults(schema["items"], item, f"{path}[{number}]")
        ]
    wrong = (
        ("enum" in schema and document not in schema["enum"])
        or ("minimum" in schema and document < schema["minimum"])
        or ("pattern" in schema and not re.search(schema["pattern"], document))
        or (schema.get("format") == "int32" and not -(2**31) <= document < 2**31)
    )
    return [f"{path}: {document!r} is not allowed"] if wrong else []
