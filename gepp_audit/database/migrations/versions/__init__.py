"""One module per revision, additive: version N and N-1 of the program run side by side."""
