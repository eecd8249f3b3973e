"""The pure core: what is sent, what is asked, what an answer is worth. No I/O, no clock, no randomness."""
