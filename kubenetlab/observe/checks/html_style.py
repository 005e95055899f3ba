"""Style of the page of a check, for light and dark displays, wide and narrow ones."""

from __future__ import annotations

from typing import Final

STYLE: Final = """\
:root { color-scheme: light dark; --page: #fff; --panel: #f6f8fa; --text: #1f2328; --mute: #59636e;
  --line: #d1d9e0; --good: #1a7f37; --bad: #c11c28; --warn: #8a5a00; --bad-panel: #ffebe9;
  --good-panel: #dafbe1; --cross: #0969da26; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --panel: #151b23; --text: #f0f6fc;
  --mute: #9198a1; --line: #3d444d; --good: #3fb950; --bad: #ff7b72; --warn: #d29922;
  --bad-panel: #4a1214; --good-panel: #0f3a1d; --cross: #4493f840; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; background: var(--page);
  color: var(--text); }
header { border-top: 6px solid var(--good); background: var(--good-panel);
  padding: 1.2rem max(1rem, calc(50vw - 42rem)) 1rem; }
header.bad { border-color: var(--bad); background: var(--bad-panel); }
main { margin: 0 auto; max-width: 86rem; padding: 0 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.3; margin: 0; }
h2, summary.section { font-size: 1.15rem; font-weight: 600; margin: 2rem 0 .6rem; }
summary { cursor: pointer; }
p { margin: .3rem 0; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.mute { color: var(--mute); }
.bar { display: flex; height: 8px; margin-top: .8rem; border-radius: 4px; overflow: hidden; }
.bar i { background: var(--good); min-width: 4px; } .bar .bad { background: var(--bad); }
.bar .warn { background: var(--warn); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.scroll { overflow: auto; max-height: 90vh; border: 1px solid var(--line); border-radius: 6px; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--text); }
table { border-collapse: separate; border-spacing: 0; }
th { text-align: left; }
.list { width: 100%; border: 1px solid var(--line); border-radius: 6px; }
.list th, .list td { padding: .4rem .8rem; vertical-align: top; }
.list thead th { background: var(--panel); border-radius: 6px 6px 0 0; }
.list td { border-top: 1px solid var(--line); overflow-wrap: break-word; }
.list th.group { border-top: 1px solid var(--line); background: var(--panel); }
.list p { margin: 0; }
.name, .place, th.group { font-family: ui-monospace, monospace; font-size: 13px; }
.name details summary { color: var(--mute); }
.place { color: var(--mute); }
.more { color: var(--mute); white-space: nowrap; }
.all td { padding: .1rem .8rem; font-size: 13px; }
.clip { overflow: clip; width: max-content; }
.matrix { font: 13px/1.3 ui-monospace, monospace; }
.matrix th { font-weight: normal; background: var(--page); position: sticky; z-index: 2; }
.matrix td { position: relative; min-width: 1.7em; height: 1.6em; padding: 0; text-align: center;
  border: 0 solid var(--line); border-width: 0 0 1px 1px; font-size: 0; }
.matrix td::before { font-size: 13px; }
.matrix th.row { left: 0; padding: 0 .7em; white-space: nowrap; z-index: 3;
  border-bottom: 1px solid var(--line); }
.matrix th.group { background: var(--panel); font-weight: 600; padding: .2em .7em; }
.matrix th.group span { position: sticky; left: .7em; }
.matrix thead th.group span { left: calc(var(--row) + 2.1em); }
.matrix tbody th.group { border-bottom: 1px solid var(--line); z-index: 2; }
.matrix thead th.group { top: 0; border-left: 1px solid var(--line); z-index: 4; height: 1.8em;
  white-space: nowrap; }
.matrix thead th.column { top: 1.8em; vertical-align: bottom; padding: .5em 0;
  border: 0 solid var(--line); border-width: 0 0 2px 1px; z-index: 4; }
.matrix thead th.column span { writing-mode: vertical-rl; transform: rotate(180deg);
  white-space: nowrap; margin: 0 auto; display: block; }
.matrix thead td { border: 0; position: sticky; left: 0; top: 0; z-index: 5;
  background: var(--page); }
.matrix tbody tr:hover th.row {
  background: linear-gradient(var(--cross), var(--cross)), var(--page); }
.matrix tbody td:hover::after { content: ""; position: absolute; z-index: -1; left: 0; width: 100%;
  top: -100vh; height: 200vh; background: var(--cross); }
.matrix tbody td { z-index: 0; } .matrix tbody td:hover { z-index: 1; }
.matrix tbody tr:hover td { background-image: linear-gradient(var(--cross), var(--cross)); }
.matrix .y::before, .y.key::before { content: "\\25cf"; color: var(--good); }
.matrix .n::before, .n.key::before { content: "\\2013"; color: var(--mute); }
.matrix .lost::before, .lost.key::before { content: "\\2717"; color: var(--bad);
  font-weight: bold; }
.matrix .open::before, .open.key::before { content: "!"; color: var(--bad); font-weight: bold; }
.matrix .lost, .matrix .open, .matrix .other { background-color: var(--bad-panel); }
.matrix .other::before, .other.key::before { content: "\\2260"; color: var(--bad);
  font-weight: bold; }
.matrix .u::before, .u.key::before { content: "?"; color: var(--warn); font-weight: bold; }
.matrix .any::before, .any.key::before { content: "\\25cb"; color: var(--mute); }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; margin: .6rem 0 0; padding: 0;
  list-style: none; color: var(--mute); }
.key::before { display: inline-block; min-width: 1.2em; font-family: ui-monospace, monospace; }
@media (max-width: 46rem) {
  .list, .list tbody, .list tr, .list td, .list th.group { display: block; }
  .list thead { display: none; }
  .list tr { border-top: 1px solid var(--line); padding: .4rem .7rem; }
  .list tbody:first-of-type tr:first-child { border-top: 0; }
  .list td, .list th.group { border: 0; padding: 0; }
  .list td[title]::before { content: attr(title) " "; color: var(--mute); font: 13px system-ui; }
  .list td:empty { display: none; }
  .matrix thead th.column span { max-height: 14em; overflow: hidden; text-overflow: ellipsis; }
}
@media print { .scroll { max-height: none; overflow: visible; } }
"""
