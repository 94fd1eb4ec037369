"""The whole mesh on one machine, from pip alone: no Docker, no system Java, no root."""
