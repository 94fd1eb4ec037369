"""The dashboards, as code: `python -m deploy.grafana` writes their JSON."""
