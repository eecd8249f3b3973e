"""What each setting means, in a sentence: for the man page and the documents."""

from __future__ import annotations

from typing import Final

#: by variable, in the order in which an operator meets them
WORDS: Final = {
    "DATABASE_URL": "The database: postgresql://USER:PASSWORD@HOST:PORT/NAME or sqlite:///FILE. A special character in "
    "the password is percent-encoded.",
    "OPENAI_API_KEY": "The provider's key.",
    "OPENAI_API_KEY_FILE": "A file that holds the key alone, instead of the key itself.",
    "OPENAI_BASE_URL": "Another server that speaks the provider's protocol (Chat Completions); unset: OpenAI itself.",
    "GEPP_AUDIT_ENV_FILE": "The env file; the flag --env-file is stronger.",
    "GEPP_AUDIT_MODEL": "The model to ask.",
    "GEPP_AUDIT_CONCURRENCY": "Calls under way at the same time in one run, 1 to 1000.",
    "GEPP_AUDIT_MAX_SECONDS": "A run takes no more work after so many seconds; unset: it goes on until nothing is due.",
    "GEPP_AUDIT_CALL_TIMEOUT": "Seconds for one whole call.",
    "GEPP_AUDIT_LEASE_MARGIN": "Seconds beyond the call's timeout after which the call of a dead run is asked again.",
    "GEPP_AUDIT_MAX_ATTEMPTS": "Bad answers after which a transaction fails, 1 to 100.",
    "GEPP_AUDIT_BACKOFF_SECONDS": "The first wait after a failed call; it doubles with each further one.",
    "GEPP_AUDIT_MAX_COMPLETION_TOKENS": "The cap of one answer's tokens, reasoning included.",
    "GEPP_AUDIT_BATCH_STATUSES": "How the platform marks open batches: in_progress, or in_progress,pending on newer "
    "platforms.",
    "GEPP_AUDIT_HOST": "This host's name in gepp-audit's tables; unset: its own. Set it where names change, as in "
    "containers.",
    "GEPP_AUDIT_SEND_FIELDS": "What may be sent of a transaction beside the fields that always are: a comma list out "
    "of vehicle_info, driver_info, origin_coordinates, destination_coordinates.",
    "GEPP_AUDIT_PRICES": "Prices of your own, as JSON, in USD per 1,000,000 tokens; unset: the built-in ones.",
    "GEPP_AUDIT_LOG_FILE": "The log file.",
    "GEPP_AUDIT_LOG_FORMAT": "console or json, for stderr and for the log file; unset: stderr is readable, the file "
    "has JSON lines.",
    "GEPP_AUDIT_PING_URL": "The address of a check at a dead man's switch that speaks healthchecks.io's protocol. It "
    "is a secret.",
    "GEPP_AUDIT_JWT_SECRET": "The secret with which the platform signs its users' tokens (HS256), at least 32 bytes; "
    "serve needs it.",
    "GEPP_AUDIT_PROCESS_ON_START": "yes or no: serve itself processes what its page or its API queued, without waiting "
    "for cron.",
    "GEPP_AUDIT_METRICS_FILE": "A file NAME.prom with the metrics of process-queue, for the textfile collector of "
    "Prometheus' node_exporter.",
}
