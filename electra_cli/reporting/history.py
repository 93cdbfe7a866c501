"""What happened to a run, as marks on its curves and in words. No TensorFlow here."""

import dataclasses
from typing import Any

from electra_cli.reporting.records import Line, RunRecord

# By kind: the sign that stands for it, matplotlib's marker of the same shape, and its meaning.
KINDS = {
    "resume": ("▶", ">", "went on after a stop"),
    "stop": ("■", "s", "stopped"),
    "rollback": ("◀", "<", "rolled back"),
    "skipped": ("✕", "x", "step left out"),
    "error": ("◆", "D", "ended with an error"),
    "phase": ("┊", "|", "next phase begins"),
}


@dataclasses.dataclass(frozen=True)
class Mark:
    """A place on the curves of a run.

    Attributes:
      step: where.
      kind: a key of `KINDS`.
    """

    step: int
    kind: str


def marks_of(run: RunRecord) -> list[Mark]:
    """Returns the marks of a run; a stop after which it went on is one with that."""
    found = [Mark(step, "phase") for step in run.phase_ends()]
    for place, event in enumerate(run.events):
        name, step = event["event"], event["step"]
        if name == "start" and (place > 0 or step > 0):
            found.append(Mark(step, "resume"))
        elif name in ("stop", "error") and not any(later["event"] == "start" for later in run.events[place + 1 :]):
            found.append(Mark(step, name))
        elif name == "rollback":
            found.append(Mark(step, "rollback"))
        elif name == "nonfinite":
            found.append(Mark(step, "skipped"))
    found += [Mark(line["step"], "skipped") for line in _lines_with_skipped(run)]
    # The same steps computed again are marked once.
    return sorted(dict.fromkeys(found), key=lambda mark: mark.step)


@dataclasses.dataclass(frozen=True)
class Happening:
    """A row of the history.

    Attributes:
      time: 'YYYY-MM-DD HH:MM:SS', UTC; '' where it is not known.
      step: at which step.
      sign: of `KINDS`, or ''.
      text: what happened.
    """

    time: str
    step: int
    sign: str
    text: str


def history_of(run: RunRecord) -> list[Happening]:
    """Returns what happened to a run, oldest first."""
    rows = []
    for place, event in enumerate(run.events):
        kind, text = _describe(event, run.events[place - 1] if place else None)
        time = str(event["time"])[:19].replace("T", " ")
        rows.append(Happening(time, event["step"], KINDS[kind][0] if kind else "", text))
    skipped = _lines_with_skipped(run)
    if skipped:
        number = round(sum(line["skipped_updates"] for line in skipped))
        text = f"{number:,} updates up to here left out, their gradients not finite"
        rows.append(Happening("", skipped[-1]["step"], KINDS["skipped"][0], text))
    return rows


def _lines_with_skipped(run: RunRecord) -> list[Line]:
    """Returns lines of training that count updates left out for which there is no event: those of loss scaling."""
    return [
        line for line in run.lines["train"] if line.get("skipped_updates") and ("loss_scale" in line or not run.events)
    ]


def _describe(event: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, str]:
    name, step = event["event"], event["step"]
    if name == "start":
        lost = event.get("lost_step", 0)
        again = f"; steps to {lost:,} are computed again" if lost > step else ""
        devices = f" on {event['devices']}" if event.get("devices") else ""
        if before is None and step == 0:
            return "", f"begins{devices}"
        cause = "" if before is None or before["event"] in ("stop", "error", "end") else ", after it was killed"
        return "resume", f"goes on from step {step:,}{devices}{cause}{again}"
    if name == "stop":
        return "stop", f"stopped by {event.get('reason', 'a signal')} and saved"
    if name == "error":
        return "error", f"ends with an error: {event.get('reason', 'not told')}"
    if name == "rollback":
        loss, median = event.get("total_loss"), event.get("median")
        why = "" if loss is None or median is None else f": total_loss {loss:.3f} beside a median of {median:.3f}"
        return "rollback", f"rolled back to step {event.get('restored_step', 0):,}{why}"
    if name == "nonfinite":
        replicas = ", ".join(map(str, event.get("replicas", [])))
        return "skipped", f"loss or gradient of replica {replicas} infinite or NaN: the update is left out"
    return "", "all steps are done" if name == "end" else str(name)
