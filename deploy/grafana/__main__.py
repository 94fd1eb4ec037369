"""Write the dashboards' JSON anew."""

from deploy.grafana.generate import DASHBOARDS, dashboard_files

for name, text in dashboard_files().items():
    (DASHBOARDS / name).write_text(text, encoding="utf-8")
