#!/usr/bin/env python3
"""Asks a Prometheus for all that a Grafana dashboard shows, and draws each panel with gnuplot.

    panels.py DASHBOARD PROMETHEUS START END JOB INSTANCE [FOLDER [ZERO...]]

START and END are Unix times, and pictures have seconds from START. A query without an answer is an error. With FOLDER there is a picture of each
panel in it, and a query whose answer is 0 throughout is an error, too, unless it asks for a metric ZERO.
Knows of Grafana's variables those that the dashboard has.
"""

import json
import math
import pathlib
import re
import subprocess
import sys
import urllib.parse
import urllib.request

dashboard, prometheus, start, end, job, instance, *rest = sys.argv[1:]
folder = pathlib.Path(rest[0]) if rest else None
may_be_zero = set(rest[1:])
VARIABLES = {"$__rate_interval": "5s", "$job": job, "$instance": instance}
faults = []


def fill(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    if "$" in query:
        faults.append(f"a variable that the dashboard does not have: {query}")
    return query


def ask(query):
    """The series of a query: label text by the format of the legend, and points."""
    text = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": 1})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{text}", timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def legend(form, labels):
    return re.sub(r"{{\s*(\w+)\s*}}", lambda label: labels.get(label[1], ""), form).strip()


def check_form(panels):
    """What Grafana would take, but show wrongly or not at all."""
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids)), f"panels with the same id: {ids}"
    taken = {}
    for panel in panels:
        place, title = panel["gridPos"], panel["title"]
        assert place["x"] + place["w"] <= 24, f"{title} is too far to the right"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{title} overlaps {taken[x, y]}"
                taken[x, y] = title
        if panel["type"] != "row":
            assert panel["targets"], f"{title} asks for nothing"
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}", f"{title}: {target}"


def draw(panel, series):
    """The commands of gnuplot for a panel, with its data."""
    name = re.sub(r"[^a-z0-9]+", "-", panel["title"].lower()).strip("-")
    is_stacked = panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode") == "normal"
    unit = panel["fieldConfig"]["defaults"]["unit"]
    file = folder / f"{panel['id']:02}-{name}.png"
    lines, plots, below = [], [], {}
    for number, (label, points) in enumerate(series):
        lines.append(f"$data{panel['id']}_{number} << EOD")
        for time, value in points:
            value = float(value)
            if is_stacked and not math.isnan(value):
                value = below[time] = below.get(time, 0) + value
            lines.append(f"{time - float(start):.0f} {value}")
        lines.append("EOD")
        style = "filledcurves y1=0" if is_stacked else "steps" if panel["title"] == "State" else "lines"
        plots.append(f"$data{panel['id']}_{number} using 1:2 with {style} lw 2 title {json.dumps(label)}")
    if is_stacked:
        plots.reverse()
    return lines + [
        f"set output {json.dumps(str(file))}",
        f"set title {json.dumps(panel['title'])} noenhanced",
        f"set ylabel {json.dumps(unit)} noenhanced",
        "plot [][0:] " + ", ".join(plots),
    ]


panels = json.load(open(dashboard))["panels"]
check_form(panels)
script = ["set terminal pngcairo size 640,320 font ',9'", "set key below noenhanced", "set grid"]
for panel in panels:
    series = []
    for target in panel.get("targets", []):
        results = ask(fill(target["expr"]))
        values = [float(value) for result in results for _, value in result["values"]]
        numbers = [value for value in values if not math.isnan(value)]
        if not numbers:
            faults.append(f"{panel['title']}: no data for {target['expr']}")
        elif folder and not any(numbers) and not may_be_zero & set(re.findall(r"\w+", target["expr"])):
            faults.append(f"{panel['title']}: always 0: {target['expr']}")
        series += [(legend(target["legendFormat"], result["metric"]), result["values"]) for result in results]
        if numbers:
            print(f"{panel['id']:2} {panel['title']}: {target['legendFormat']}: {len(results)} series, "
                  f"{min(numbers):.4g} to {max(numbers):.4g}")
    if series and folder:
        script += draw(panel, series)
if folder:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    subprocess.run(["gnuplot"], input="\n".join(script), text=True, check=True)
    drawn = len(list(folder.glob("*.png")))
    wanted = sum(panel["type"] != "row" for panel in panels)
    if drawn != wanted:
        faults.append(f"{drawn} pictures of {wanted} panels")
if faults:
    sys.exit("\n".join(faults))
