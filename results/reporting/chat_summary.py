"""A report's content → one paragraph of plain text, to be pasted into a chat."""

from __future__ import annotations

from results.reporting.report_content import TIED, Content

_FINDINGS = 2  # of the diagnosis


def chat_summary(content: Content) -> str:
    """What won, its key figures, the search, what holds it back, and the next step: a paragraph without markup.

    Whether other trials may be as good is left out, as are findings that are no more than possible.
    """
    sentences = [f"{content.study}: {content.headline}"]
    for tile in content.tiles:
        if tile.label != TIED:
            sentences.append(f"{tile.label[:1].upper()}{tile.label[1:]} {tile.value}: {', '.join(tile.notes)}")
    sentences.append(f"Search: {', '.join(content.context)}")
    if content.recipe:
        sentences.append(f"Best: {', '.join(f'{knob} {value}' for knob, value in content.recipe)}")
    if names := [finding.name for finding in content.findings if finding.confidence != "possible"][:_FINDINGS]:
        sentences.append(f"Diagnosis: {'; '.join(names)}")
    if content.steps:
        sentences.append(f"Next: {content.steps[0].text}")
    return " ".join(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in sentences)
