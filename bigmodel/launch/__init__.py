"""Jobs on many hosts: a Job in, text out, and the supervisor of processes on this machine."""
