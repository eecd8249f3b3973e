"""`python -m gepp_audit.provider FD` is what `openai_client` starts; without a descriptor it tries the SDK."""

from __future__ import annotations

import gc
import sys

gc.disable()  # a quarter of the time in which the SDK is imported; the worker enables it again

if len(sys.argv) == 2 and sys.argv[1].isdigit():
    from gepp_audit.provider.worker import main

    main(int(sys.argv[1]))
else:
    from gepp_audit.provider import exchange

    sys.stdout.write(f"{exchange.__name__} loads: the OpenAI SDK is in order.\n")
