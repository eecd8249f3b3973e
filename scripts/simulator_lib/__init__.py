"""What `scripts/simulator` is made of. Standard library alone, so that any Python from 3.11 on can run it.

rules → judging → answers: from one transaction to the text of an answer (pure).
requests, wire: Chat Completions as JSON, in and out (pure).
scenario, presets: which calls go wrong, and how (pure).
http_protocol, server: the connections, the clock, the log.
"""
