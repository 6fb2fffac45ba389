"""What opening kinds of data may cost those that open none."""

import subprocess
import sys


def test_no_library_of_one_kind_is_imported_for_all():
    code = (
        "import sys, bigmodel.train.loop;"
        "print([m for m in ('tensorflow_datasets', 'sklearn', 'soundfile', 'PIL.Image') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
