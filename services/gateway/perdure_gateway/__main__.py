"""`python -m perdure_gateway`: one gateway, set up by PERDURE_* variables."""

import sys

from perdure.config import GatewaySettings
from perdure.service import start
from perdure_gateway.app import serve

if __name__ == "__main__":
    sys.exit(start(GatewaySettings, serve, "gateway"))
