"""GPUs by name."""

TARGETS: dict[str, str] = {"h100": "", "h200": ""}


def devices(name: str, hosts: int, gpus: int):
    raise NotImplementedError
