"""The report's style: Okabe and Ito's colours, which most colour-blind eyes tell apart, on white and on black."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { --back: #fff; --card: #f6f8fa; --ink: #1f2328; --soft: #57606a; --grid: #d0d7de; --bad: #b3261e;
  --use: #0072b2; --idle: #b7d7ea; --opening: #56b4e9; --waiting: #e69f00; --p99: #c2410c; --p50: #0072b2;
  --budget: #b3261e; --moves: #00795a; --opens: #9a6b00; --event: #6e40c9 }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --card: #161b22; --ink: #f0f6fc; --soft: #9da7b1;
  --grid: #30363d; --bad: #ff8a80; --use: #3b9ddd; --idle: #1d4666; --opening: #7cc7f2; --waiting: #f0b429;
  --p99: #ff9b6a; --p50: #58b0ec; --budget: #ff8a80; --moves: #3fd0a4; --opens: #d8b45c; --event: #c4a7ff } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", sans-serif }
main { max-width: 1100px; margin: 0 auto; padding: 16px }
h1 { margin: 0; font-size: 26px } h2 { margin: 28px 0 4px; font-size: 18px }
h3 { margin: 0; font-size: 15px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
h3 span { font-weight: 400; color: var(--soft) }
p { margin: 2px 0; color: var(--soft); overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(135px, 1fr)); gap: 8px; margin: 14px 0 0 }
.tiles div { background: var(--card); border-radius: 8px; padding: 8px 12px }
dt { color: var(--soft); font-size: 13px } dd { margin: 0; font-size: 20px; font-weight: 600; white-space: nowrap }
small { font-size: 13px; font-weight: 400; color: var(--soft) } .bad dd { color: var(--bad) }
.keys { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0; padding: 0; list-style: none; color: var(--soft);
  font-size: 13px }
i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; border-radius: 2px }
figure { margin: 8px 0 0; padding: 8px 0 24px 48px } .plot { position: relative; height: 170px }
.small { padding: 4px 0 6px 28px } .small .plot { height: 64px }
svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible }
path { vector-effect: non-scaling-stroke } .grid { stroke: var(--grid); stroke-width: 1; fill: none }
.y, .x { position: absolute; font-size: 12px; color: var(--soft); white-space: nowrap }
.y { right: 100%; margin-right: 6px; transform: translateY(-50%) }
.x { top: 100%; margin-top: 4px; transform: translateX(-50%) }
path.use, path.idle, path.opening, path.waiting { stroke: none }
.use { fill: var(--use); background: var(--use) } .idle { fill: var(--idle); background: var(--idle) }
.opening { fill: var(--opening); background: var(--opening) }
.waiting { fill: var(--waiting); background: var(--waiting) }
path.p50, path.p99, path.moves, path.opens, path.budget { fill: none; stroke-width: 1.8 }
.p50 { stroke: var(--p50); background: var(--p50) } .p99 { stroke: var(--p99); background: var(--p99) }
.moves { stroke: var(--moves); background: var(--moves) } .opens { stroke: var(--opens); background: var(--opens) }
.budget { stroke: var(--budget); background: var(--budget); stroke-dasharray: 6 4 }
.mark { stroke: var(--event); background: var(--event); stroke-width: 1.5; stroke-dasharray: 2 3; fill: none }
.mark.ended { stroke: var(--bad); background: var(--bad) }
.mark.resize, .mark.pause, .mark.resume, .mark.drain { stroke: var(--moves); background: var(--moves) }
.mark.came, .mark.left { stroke: var(--soft); background: var(--soft) }
i.mark { width: 4px; height: 14px; margin: 0 8px 0 4px } i.budget, i.p50, i.p99, i.moves, i.opens { height: 4px;
  vertical-align: 3px }
.strips { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 12px;
  margin-top: 8px }
article { background: var(--card); border-radius: 8px; padding: 8px 12px; min-width: 0 }
article p { font-size: 13px }
table { border-collapse: collapse; width: 100% } th { text-align: left; color: var(--soft); font-weight: 400 }
td, th { padding: 4px 8px 4px 0; border-bottom: 1px solid var(--grid); vertical-align: top }
td:first-child { white-space: nowrap; font-variant-numeric: tabular-nums; width: 80px }
@media (max-width: 520px) { main { padding: 12px } .x.odd { display: none } .plot { height: 150px }
  figure.big { padding-left: 42px } }
@media print { article, figure { break-inside: avoid } }
"""
