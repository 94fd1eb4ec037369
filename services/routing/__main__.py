"""`python -m services.routing`: run the routing service with the settings of the environment."""

from services.routing.app import build_app
from shared.service import run

run(build_app)
