"""The style sheet of the report: light and dark, on paper too; colours of Okabe and Ito."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #5b6470; --line: #d5dbe1;
  --pale: #f3f5f7; --c0: #0072b2; --c1: #c04f00; --c2: #00805d; --fg: #e69f00; --bg: #3b6fd4;
  --none: #8a8f98; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e8eaed; --soft: #a3acb6;
  --line: #3a424b; --pale: #1d2227; --c0: #56b4e9; --c1: #f0883e; --c2: #2fc79a; --fg: #f0b429;
  --bg: #6f9cf0; --none: #8a8f98; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .4rem 0; max-width: 48rem; } .note { color: var(--soft); font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; }
a { color: var(--c0); } .leak { border-left: .3rem solid var(--c1); padding-left: .7rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
tbody th, td { overflow-wrap: break-word; }
thead th { background: var(--pale); }
tbody th, th:first-child { text-align: left; font-weight: 500; }
td svg { vertical-align: middle; } .best { font-weight: 700; } .second { font-style: italic; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; }
.charts svg { max-width: 100%; height: auto; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .title { font-size: 12px; }
.axis .grid { stroke: var(--line); } .axis .line { stroke: var(--soft); }
.level line { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 6 4; }
.series-0 polyline, .series-0 line { stroke: var(--c0); }
.series-1 polyline, .series-1 line { stroke: var(--c1); }
.series-2 polyline, .series-2 line { stroke: var(--c2); }
[class^="series-"] polyline, [class^="series-"] line { fill: none; stroke-width: 2; }
.series-0 { fill: var(--c0); } .series-1 { fill: var(--c1); } .series-2 { fill: var(--c2); }
.bar rect { fill: var(--c0); } .share-0 rect { fill: var(--fg); } .share-1 rect { fill: var(--bg); }
.share-2 rect { fill: var(--none); }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; }
.sheet { max-width: 100%; height: auto; background: #fff; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; list-style: none; }
.tiles li { background: var(--pale); padding: .6rem 1rem; border-radius: .4rem; }
.tiles strong { display: block; font-size: 1.35rem; }
@media print { :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --pale: #eee;
  --c0: #0072b2; --c1: #c04f00; --c2: #00805d; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  nav { display: none; } h2 { break-after: avoid; } tr, figure, svg { break-inside: avoid; }
  .wide { overflow: visible; } * { print-color-adjust: exact; } }
"""
"""No text of a trial ever goes in here."""
