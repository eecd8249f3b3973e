"""The crontab: how its lines are read (`lines`), the block that is ours (`block`), and cron's own program (`program`).

A leaf: knows neither the queue nor the database.
"""
