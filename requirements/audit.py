#!/usr/bin/env python3
"""Hold the lock against a database of known vulnerabilities, and the findings against our decisions.

    python requirements/audit.py                      asks pip-audit (PyPI's advisories; needs the internet)
    python requirements/audit.py --service osv        asks OSV
    python requirements/audit.py --report FILE        takes what `pip-audit --format json` said elsewhere

Exit code 0: all packages were looked up, and each finding is decided in advisories.toml. 1: something is undecided, or
a decision has outlived its date. 2: packages could not be looked up, which is no all-clear: a mirror without advisories
answers so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCKS = ("lock.txt", "torch.txt", "java.txt")


def main(arguments: list[str]) -> int:
    """Look, say what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi")
    parser.add_argument("--report", type=Path, help="JSON of pip-audit")
    parser.add_argument("--decisions", type=Path, default=HERE / "advisories.toml")
    options = parser.parse_args(arguments)
    report = json.loads(options.report.read_text(encoding="utf-8")) if options.report else ask(options.service)
    decisions = tomllib.loads(options.decisions.read_text(encoding="utf-8")).get("decision", [])
    lines, code = judge(report, decisions, datetime.date.today())
    print("\n".join(lines))
    return code


def ask(service: str) -> dict[str, Any]:
    """What pip-audit says of the lock."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--output", str(output), "--progress-spinner", "off", "--timeout", "30"]
        for lock in LOCKS:
            command += ["--requirement", str(HERE / lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not output.is_file():
            print(done.stderr.strip()[-1500:], file=sys.stderr)
            sys.exit("pip-audit did not answer (pip install pip-audit; it needs the internet)")
        report: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        return report


def judge(report: dict[str, Any], decisions: list[dict[str, Any]], today: datetime.date) -> tuple[list[str], int]:
    """Lines for people, and the exit code.

    Args:
        report: Of pip-audit: ``{"dependencies": [{"name", "version", "vulns": [{"id", "aliases", …}]} | {"name",
            "skip_reason"}]}``.
        decisions: Of advisories.toml.
        today: Against which their dates are held.
    """
    lines, undecided, used = [], 0, set()
    skipped = [one for one in report["dependencies"] if "skip_reason" in one]
    for package in report["dependencies"]:
        for found in package.get("vulns", []):
            names = {found["id"], *found.get("aliases", [])}
            decision = next(
                (one for one in decisions if one["id"] in names and one["package"].lower() == package["name"].lower()),
                None,
            )
            what = f"{package['name']} {package['version']}: {found['id']}"
            fixed = ", ".join(found.get("fix_versions", [])) or "no release"
            if decision is None:
                lines.append(
                    f"UNDECIDED {what}; mended in {fixed}. Raise it, or decide in requirements/advisories.toml."
                )
                undecided += 1
                continue
            used.add(decision["id"])
            if decision["until"] < today:
                lines.append(f"OUTLIVED  {what}: decided until {decision['until']}; mended in {fixed}. Decide anew.")
                undecided += 1
            else:
                lines.append(f"{decision['decision']:9} {what}; mended in {fixed}")
    looked_up = len(report["dependencies"]) - len(skipped)
    if not skipped:
        gone = [one for one in decisions if one["id"] not in used]
        lines += [f"SPARE     {one['package']}: {one['id']} is not found any more; take it out" for one in gone]
    lines.append(
        f"{looked_up} of {len(report['dependencies'])} packages were looked up, {undecided} findings are undecided."
    )
    if undecided:
        return lines, 1
    if skipped:
        names = ", ".join(one["name"] for one in skipped[:5])
        lines.append(f"NOT LOOKED UP: {len(skipped)}, as {names}. The index has no advisories: this is no all-clear.")
        return lines, 2
    return lines, 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
