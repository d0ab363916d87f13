"""`DiagnosisInputs` → findings, worst first, which is the order in which to act.

1. symptom: nothing was learned. It names no cause, so it comes first and its causes follow.
2. cause: something is broken, and the other figures mean little until it is fixed.
3. limit: the training works, and this holds it back.
4. doubt: the figures prove less than they seem to.
5. aside: worth knowing, but changes nothing above.

Within a grade the surest comes first. A symptom or cause that is at least likely hides the causes that it explains. It
also hides all limits and doubts, since it may have caused them. So fix the first finding, then diagnose again.
"""

from __future__ import annotations

import textwrap

from results.diagnosis.all_checks import CHECKS, EXPLAINS
from results.diagnosis.checks.space import failures
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade


def diagnose(inputs: DiagnosisInputs) -> list[Finding]:
    """What explains the results, worst first; empty if all is well."""
    checks = CHECKS if inputs.trials else (failures,)
    findings = [finding for check in checks if (finding := check(inputs))]
    explained: set[str] = set()
    for finding in findings:
        if _weighs(finding) and finding.name not in explained:
            explained |= EXPLAINS.get(finding.name, set())
    unexplained = [finding for finding in findings if finding.name not in explained]
    hidden_grades = {Grade.LIMIT, Grade.DOUBT} if any(map(_weighs, unexplained)) else set()
    return sorted(
        (finding for finding in unexplained if finding.grade not in hidden_grades), key=lambda finding: finding.order
    )


def _weighs(finding: Finding) -> bool:
    """Whether it is serious and sure enough to explain others."""
    return finding.grade <= Grade.CAUSE and finding.confidence is not Confidence.POSSIBLE


def as_text(findings: list[Finding], width: int) -> str:
    """The findings as text for a terminal."""
    if not findings:
        return "Nothing found that explains weak results."
    lines = []
    for number, finding in enumerate(findings, start=1):
        lines.append(f"{number}. {finding.name} ({finding.grade.name.lower()}, {finding.confidence})")
        for label, text in (("seen", finding.seen), ("means", finding.means), ("next", finding.next_step)):
            lines += textwrap.wrap(
                text, max(40, width), initial_indent=f"   {label + ':':<7}", subsequent_indent=" " * 10
            )
    return "\n".join(lines)
