"""The program as a process, against real servers on this machine."""
