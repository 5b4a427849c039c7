"""The timing worker of the suites, with the peers' engines beside the catalog's."""

import sys

from harness.peers.registry import find_engine
from harness.suites import worker

COMMAND = (sys.executable, "-m", "harness.peers.worker")

if __name__ == "__main__":
    worker.main(find_engine)
