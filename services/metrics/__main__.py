"""`python -m services.metrics`: run the metrics service with the settings of the environment."""

from services.metrics.app import build_app
from shared.service import run

run(build_app)
