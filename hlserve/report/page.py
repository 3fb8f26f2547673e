"""A training report as one self-contained HTML page: no script, no network, dark and light."""

from __future__ import annotations

from collections.abc import Sequence

from hlserve.report.learning import LearningReport
from hlserve.report.markup import Markup, element, text
from hlserve.report.sections import sections

_CSS = """
:root { color-scheme: light dark; --font: system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  --paper: #ffffff; --panel: #f5f6f8; --ink: #1d2129; --faint: #8a919e; --muted: #59616d;
  --line: #d9dde3;
  --blue: #0072b2; --orange: #d55e00; --green: #00795a; --pink: #a8487e;
  --blue-rgb: 0, 114, 178; --orange-rgb: 213, 94, 0; }
@media screen and (prefers-color-scheme: dark) { :root {
  --paper: #15181d; --panel: #1f242b; --ink: #e6e8eb; --faint: #8d96a3; --muted: #a7b0bc;
  --line: #343b45;
  --blue: #56b4e9; --orange: #f0953a; --green: #2fc79b; --pink: #e08fbd;
  --blue-rgb: 86, 180, 233; --orange-rgb: 240, 149, 58; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 var(--font); }
main, header { max-width: 1060px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 44px 0 6px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 26px 0 8px; }
nav { display: flex; flex-wrap: wrap; gap: 2px 16px; }
nav a { color: var(--blue); text-decoration: none; }
nav a:hover { text-decoration: underline; }
p { margin: 6px 0; max-width: 76ch; }
.look { color: var(--muted); font-style: italic; }
.note, .small { color: var(--muted); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: 8px 0; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: bottom; }
th { font-weight: 600; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.number + :not(.number) { padding-left: 14px; }
.roomy td:not(.number), .roomy th:not(.number) { min-width: 11em; }
.heat td { text-align: right; padding: 4px 8px; min-width: 42px;
  font-variant-numeric: tabular-nums; }
.heat th { padding: 4px 10px 4px 0; font-weight: 500; max-width: 180px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.heat th.column { height: 112px; padding: 0 0 6px; text-align: center; max-width: 42px;
  overflow: visible; }
.heat th.column span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block;
  max-height: 108px; overflow: hidden; text-overflow: ellipsis; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 6px 0;
  font-size: .92rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 18px; } summary { cursor: pointer; font-weight: 600; }
.verdict { border-left: 5px solid var(--faint); background: var(--panel); padding: 10px 16px;
  margin: 12px 0; border-radius: 4px; }
.verdict b { font-size: 1.15rem; }
.verdict.well-fitted, .verdict.proven { border-color: var(--green); }
.verdict.overfitting, .verdict.kept { border-color: var(--orange); }
.verdict.underfitting, .verdict.estimated { border-color: var(--blue); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 12px; }
.figure { max-width: 540px; }
.figure.wide { max-width: 1020px; margin-top: 14px; overflow-x: auto; }
.figure svg { width: 100%; height: auto; display: block; }
.figure.wide svg { min-width: 660px; }
.flag { color: var(--orange); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 14px; }
.card { background: var(--panel); border-radius: 6px; padding: 10px; font-size: .88rem;
  overflow-wrap: anywhere; }
.card .value { display: block; font-size: 1.35rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.card img { image-rendering: pixelated; display: block; margin-bottom: 6px; }
ul { padding-left: 22px; margin: 6px 0; } li { margin: 4px 0; max-width: 84ch; }
footer { color: var(--muted); font-size: .85rem; margin: 44px 0 30px; }
@media screen and (max-width: 640px) {
  .number { white-space: normal; } .roomy .number { white-space: nowrap; }
  table:not(.heat) td:first-child { min-width: 8em; } }
@page { size: A4 landscape; margin: 11mm; }
@media print {
  :root { color-scheme: light; font-size: 12.5px; }
  body { font-size: 1rem; }
  main, header { max-width: none; padding: 0; } header { padding-top: 0; }
  nav { display: none; }
  h2 { margin-top: 26px; } h2, h3, summary, .look, .look + p { break-after: avoid; }
  p, .figure, .card, .verdict, .heat, tr, dl { break-inside: avoid; }
  .figure:not(.wide) { max-width: 390px; }
  .scroll, .figure.wide { overflow: visible; } .figure.wide svg { min-width: 0; }
  .grid { grid-template-columns: repeat(auto-fit, minmax(310px, 1fr)); }
  .verdict, .card, .heat td { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  table { font-size: .78rem; } th.number { white-space: normal; }
  .roomy table { font-size: .66rem; }
  .roomy th, .roomy td { padding: 3px 7px 3px 0; }
  .roomy td:not(.number), .roomy th:not(.number) { min-width: 8em; }
  details:not([open]) { display: none; } }
"""


def as_html(report: LearningReport) -> str:
    """The page; the same report gives the same bytes."""
    return html_page(report.title, f"{report.title}: how it learned", list(sections(report)))


def html_page(heading: str, title: str, told: Sequence[tuple[str, str, Markup]]) -> str:
    """A whole page with its style; nothing in it is fetched.

    Args:
        heading: on top of the page.
        title: what the browser's tab says.
        told: (anchor, title, content) of every section.
    """
    links = [Markup(f'<a href="#{anchor}">{text(name)}</a>') for anchor, name, _ in told]
    body = "".join(
        f'<section id="{anchor}">{element("h2", name)}{content}</section>'
        for anchor, name, content in told
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_CSS}</style></head>\n"
        f"<body><header><h1>{text(heading)}</h1>{element('nav', *links)}</header>\n"
        f"<main>{body}<footer>Made by hlserve; the numbers are in report.json beside this page."
        "</footer></main></body></html>\n"
    )
