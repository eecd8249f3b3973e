"""All talk with OpenAI and with servers that speak its Chat Completions.

`openai_client` is the door: submit requests, wait for results. `errors` says what a failure means, `response` what an
answer holds, `models` what a model accepts. Nothing here knows the database, and only `exchange` and `transport`,
loaded in the process of `worker`, import the SDK.
"""
