"""Draws the dashboards from their JSON and a real Prometheus, as one SVG each.

python -m tools.dashboards.picture --prometheus http://localhost:9090 --out docs/dashboards
"""
