"""The style of a report's page: light and dark, wide and narrow, on paper."""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1a202c; --soft: #5b6676; --line: #e2e6ec; --code: #f1f3f6;
  --critical: #c81e1e; --warning: #b45309; --info: #1d6fb8; --good: #157f4c;
  --critical-soft: #fdecec; --warning-soft: #fdf3e1; --info-soft: #e6f1fb; --good-soft: #e6f6ee;
  --db: #3b76e1; --handler: #1f9d78; --dependencies: #59b8c9; --serialization: #8a63d2; --middleware: #8793a5;
  --send: #bcc5d1; --pool_wait: #f2a516; --threadpool_wait: #ee7b1d; --loop_wait: #dc3b3b; --gc: #cf3a83; --other: #aaa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1217; --card: #181c23; --ink: #e4e8ee; --soft: #98a3b3; --line: #2a303a; --code: #11151b;
    --critical: #ff8080; --warning: #f5b649; --info: #74b4f2; --good: #5fd39a;
    --critical-soft: #3a1a1c; --warning-soft: #35280f; --info-soft: #14283c; --good-soft: #12301f;
    --db: #5b91f0; --handler: #2fb68d; --dependencies: #4fa9ba; --serialization: #9f7ce4; --middleware: #7b8799;
    --send: #566273;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 4px; }
h3 { font-size: 15px; margin: 0; overflow-wrap: anywhere; }
p { margin: 0; }
code, pre, .site { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.soft { color: var(--soft); }
.note { color: var(--soft); font-size: 13px; margin-bottom: 10px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; }
.verdict { margin-top: 18px; border-left: 5px solid var(--good); font-size: 16px; }
.verdict.critical { border-left-color: var(--critical); }
.verdict.warning { border-left-color: var(--warning); }
.verdict.info { border-left-color: var(--info); }
.verdict ul { margin: 0; padding-left: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin-top: 12px; }
.tile { padding: 12px 14px; min-width: 0; }
.tile dt { color: var(--soft); font-size: 13px; }
.tile dd { margin: 0; }
.tile .value { font-size: 22px; font-weight: 600; letter-spacing: -0.01em; font-variant-numeric: tabular-nums; }
.tile .more { color: var(--soft); font-size: 12.5px; line-height: 1.4; }
.tile svg { display: block; width: 100%; height: 6px; margin: 4px 0 6px; }
.scroll { overflow-x: auto; padding: 4px 0; }
.scroll details { margin: 0; border-top: 1px solid var(--line); }
.scroll summary { padding: 8px 12px; }
.verdict li::marker { color: var(--soft); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 7px 12px; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.bad { color: var(--critical); font-weight: 600; }
.routes { table-layout: fixed; min-width: 860px; }
.routes th:first-child { width: 27%; }
.routes th.n { width: 88px; }
.method { color: var(--soft); font-size: 12px; font-weight: 600; }
.bar svg { display: block; width: 100%; height: 16px; border-radius: 3px; margin-top: 3px; }
.bar .said { font-size: 13px; color: var(--soft); margin-top: 4px; }
.plot { padding-top: 0; padding-bottom: 0; vertical-align: middle; }
.plot svg { display: block; width: 100%; height: auto; }
.axis text { font-size: 16px; fill: var(--soft); }
.grid { stroke: var(--line); }
.range { stroke: var(--soft); stroke-width: 3; opacity: .45; }
.p50 { fill: var(--good); } .p95 { fill: var(--warning); } .p99 { fill: var(--critical); }
.track { fill: var(--line); }
.ok { fill: var(--good); } .high { fill: var(--warning); } .full { fill: var(--critical); }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 16px; list-style: none; margin: 6px 0 10px; padding: 0; font-size: 13px;
}
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
.legend .round i { border-radius: 50%; }
.chip {
  display: inline-block; font-size: 12.5px; font-weight: 600; padding: 1px 8px; border-radius: 99px;
  text-decoration: none; white-space: nowrap; color: var(--info); background: var(--info-soft);
}
.chip.critical { color: var(--critical); background: var(--critical-soft); }
.chip.warning { color: var(--warning); background: var(--warning-soft); }
.chips { margin-top: 4px; display: flex; flex-wrap: wrap; gap: 4px; }
.finding { margin-top: 14px; border-left: 5px solid var(--info); break-inside: avoid; }
.finding.critical { border-left-color: var(--critical); }
.finding.warning { border-left-color: var(--warning); }
.finding header { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: baseline; }
.finding header .seen { margin-left: auto; color: var(--soft); font-size: 13px; }
.site { font-size: 13.5px; margin-top: 6px; overflow-wrap: anywhere; }
.message { margin-top: 6px; overflow-wrap: anywhere; }
.fix { margin-top: 10px; padding: 9px 12px; border-radius: 7px; background: var(--good-soft); overflow-wrap: anywhere; }
.message code, .fix code { background: var(--code); border-radius: 4px; padding: 0 4px; font-size: 13.5px; }
.fix b { color: var(--good); }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; }
.evidence { margin-top: 6px; font-size: 13px; }
.evidence th { width: 1%; white-space: nowrap; color: var(--soft); font-weight: 500; }
.evidence th, .evidence td { padding: 4px 10px 4px 0; }
.evidence pre {
  margin: 0; padding: 6px 9px; background: var(--code); border-radius: 6px; font-size: 12.5px;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
footer { margin-top: 36px; color: var(--soft); font-size: 13px; }
footer .trouble { color: var(--warning); font-weight: 600; }
@media (max-width: 640px) { main { padding: 18px 12px; } .finding header .seen { margin-left: 0; width: 100%; } }
@media print {
  body { background: #fff; font-size: 11pt; }
  main { max-width: none; padding: 0; }
  .card, .tile { break-inside: avoid; }
  .scroll { overflow: visible; }
  tr { break-inside: avoid; }
  svg, .chip, .fix, .legend i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { display: none; }
}
"""
