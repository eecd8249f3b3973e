"""The doors for people and programs over HTTP: the platform's routes around the queue, and the Audit History page.

An optional extra: nothing outside of this package imports it but the command `serve`.
"""
