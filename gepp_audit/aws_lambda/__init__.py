"""The queue as a function of AWS Lambda that a schedule starts: `gepp_audit.aws_lambda.handler`.

It does what the crontab's line does, by the same `queue.start.process_queue`; docs/aws.md tells how it is deployed.
`invocation` is the whole of it, `sandbox` says where it runs, `references` fetches what the settings refer to.
"""

from __future__ import annotations

from typing import Any

from gepp_audit.aws_lambda.invocation import Context, InvocationFailed, invoke


def handler(event: Any, context: Context) -> dict[str, Any]:
    """Do what is due, within the time that Lambda gives, and return what was done.

    `event` is the schedule's and says nothing that matters. The result is that of `process-queue --json`, with
    `failed_batches` (ids) and `pending`: what is left to the next invocation. A batch that ended failed is a result;
    InvocationFailed, which Lambda counts as an error and sends to the dead-letter queue, says that the work could not
    be done: the database cannot be used, the provider refuses all calls, a setting is wrong.
    """
    return invoke(context)


__all__ = ["Context", "InvocationFailed", "handler"]
