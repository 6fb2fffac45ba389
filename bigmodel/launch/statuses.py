"""What a process ends with, and what it says to who started it."""

FAILED = 1
REFUSED = 2  # the input is at fault: to start again is no help
OF_OTHERS = 75  # sysexits' EX_TEMPFAIL: another host failed, and this one ended with it
INTERRUPTED = 130  # Ctrl-C; the state is saved
TERMINATED = 143  # SIGTERM; the state is saved
