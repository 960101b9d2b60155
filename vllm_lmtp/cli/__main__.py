"""`python -m vllm_lmtp.cli`, for when the script is not on the path."""

import sys

from vllm_lmtp.cli import main

if __name__ == "__main__":
    sys.exit(main())
