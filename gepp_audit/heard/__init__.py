"""How those hear of the queue who are not there when cron starts it: a mail, a ping, metrics in a file.

Leaves: nothing here knows the queue, the database or the command line, and none of it can stop the work. Each module is
imported only where its setting is there or a failure has to be told.
"""
