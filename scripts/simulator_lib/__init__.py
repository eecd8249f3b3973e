"""What `scripts/simulator` is made of. Standard library alone, so that any Python from 3.11 on can run it.

facts → rules → answers: from one transaction to an answer (pure).
requests, wire: Chat Completions as JSON, in and out.
spoiling → presets → scenario: which calls go wrong, and how (pure).
http_protocol, calls → server: the connections, the clock, the log, the routes.
"""
