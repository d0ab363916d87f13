"""What is known of a study → its findings, worst first.

Findings come worst first, which is the order in which to act:

1. symptom: nothing was learned. It names no cause, so it stands first and its causes follow.
2. cause: something is broken, and the other figures are worth little until it is mended.
3. limit: the training works, and this holds it down.
4. doubt: more may be read into the figures than they can tell.
5. aside: worth knowing, and changes nothing of the above.

Within a grade the surest comes first. A symptom or cause that is likely at least hides the causes that it explains, and all
limits and doubts, which it may well have brought about. So mend the first, and diagnose again.
"""

from __future__ import annotations

import textwrap

from results.diagnosis.checks.space import failures
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.diagnosis.findings import CHECKS, EXPLAINS


def diagnose(diagnosis_inputs: DiagnosisInputs) -> list[Finding]:
    """What explains the results, the worst first; nothing where all is well."""
    checks = CHECKS if diagnosis_inputs.trials else (failures,)
    found = [finding for check in checks if (finding := check(diagnosis_inputs))]
    explained: set[str] = set()
    for finding in found:
        if _weighs(finding) and finding.name not in explained:
            explained |= EXPLAINS.get(finding.name, set())
    left = [finding for finding in found if finding.name not in explained]
    hidden = {Grade.LIMIT, Grade.DOUBT} if any(map(_weighs, left)) else set()
    return sorted((f for f in left if f.grade not in hidden), key=lambda f: f.order)


def _weighs(finding: Finding) -> bool:
    """Whether it is grave and sure enough to account for others."""
    return finding.grade <= Grade.CAUSE and finding.confidence is not Confidence.POSSIBLE


def as_text(findings: list[Finding], width: int) -> str:
    """For a terminal."""
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
