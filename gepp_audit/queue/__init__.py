"""The queue without SQL: what a run does, in which order, and the policies it asks."""
