"""`vllm-lmtp doctor`: can this installation serve, and do these heads predict what they claim?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_lmtp.cli.shared.output import (
    add_json_flag,
    print_json,
    print_progress,
    print_table,
    stdout_to_stderr,
)
from vllm_lmtp.tools.doctor.check import OK, Check, has_problem

MARKS = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `doctor`."""
    parser = subparsers.add_parser(
        "doctor", help="check the installation and a checkpoint's heads", description=__doc__
    )
    parser.add_argument("--heads", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    parser.add_argument(
        "--target", metavar="MODEL", help="the model the heads draft for (needs --heads)"
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="measure on this text, not on the target's own"
    )
    add_json_flag(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Examine. Returns 1 when there is a problem, 0 otherwise, warnings included."""
    if args.heads is None and (args.target or args.text):
        args.parser.error("--target and --text need --heads")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    measurement = None
    with stdout_to_stderr():
        checks = _check_installation()
        if args.heads is not None:
            from vllm_lmtp.tools.doctor.heads import check_heads

            print_progress("measuring the heads ...")
            more, measurement = check_heads(args.heads, args.target, args.text)
            checks += more
    facts = {
        "ok": not has_problem(checks),
        "checks": [asdict(check) for check in checks],
        "measurement": None if measurement is None else asdict(measurement),
    }
    if args.json:
        print_json(facts)
    else:
        _print(checks, facts["measurement"])
    return 0 if facts["ok"] else 1


def _check_installation() -> list[Check]:
    from vllm_lmtp.tools.doctor.installation import check_installation

    print_progress("looking at the installation ...")
    checks = check_installation()
    if any(check.name == "model runner" for check in checks):
        from vllm_lmtp.compat import vllm_version
        from vllm_lmtp.config.spec_config import runner_in_use
        from vllm_lmtp.tools.doctor.bindings import check_bindings

        checks += check_bindings(vllm_version(), runner_in_use())
    return checks


def _print(checks: Sequence[Check], measurement: Any) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{MARKS[check.status]}  {check.name:<{width}}  {check.detail}")
        if check.status != OK:
            print(f"{'':<9}{'':<{width}}  -> {check.remedy}")
    print()
    if measurement is not None:
        _print_agreement(measurement)
    counts = {status: sum(c.status == status for c in checks) for status in MARKS}
    print(f"{counts['ok']} ok, {counts['warning']} warning(s), {counts['problem']} problem(s)")


def _print_agreement(measurement: Any) -> None:
    rows = [("LM head", measurement["lm_head"]["rates"])]
    rows += [(f"head {head['head']}", head["rates"]) for head in measurement["heads"]]
    cells = []
    for name, rates in rows:
        best = max(rates)
        cells.append([name, *(f"{100 * r:.1f}{'*' if r == best else ' '}" for r in rates)])
    offsets = [f"t+{offset}" for offset in range(1, len(rows[0][1]) + 1)]
    positions = measurement["lm_head"]["num_rows"]
    print_table(
        cells,
        ("%", *offsets),
        f"Agreement of each head's top token with the token at each offset ({positions} positions; "
        "* peak)",
    )
