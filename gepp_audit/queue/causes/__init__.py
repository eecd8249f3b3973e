"""Why a batch does not move, cause by cause: each function derives one from stored facts, or says None."""
