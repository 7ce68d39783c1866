"""`llmkit plan --on 64xH100`: what a run would take on GPUs that aren't here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from llmkit.cli import train
from llmkit.system.language import translate
from llmkit.system.plural import many
from llmkit.system.terminal import shell_word

STATES = ("weights", "gradients", "optimizer", "copies", "activations", "logits", "context")
"""What memory is made up of, in the order in which it is said."""
DAY, MONTHS = 86_400, ("January", "February", "March", "April", "May", "June", "July", "August", "September",
                       "October", "November", "December")


def plan_for(
    given: tuple[str, Mapping[str, str | None], Mapping[str, Any]], settings: list[str], on: str | None, processes: int,
    asked: Mapping[str, Any], launcher: Sequence[str], as_json: bool,
) -> int:
    """Reckon, and print it; `given` is the recipe with its blocks and fields, `asked` the options by their names."""
    from llmkit.planning.clusters.gpus import cluster, quantity
    from llmkit.planning.clusters.outlook import DISK, Assumed, outlook
    from llmkit.system import report
    from llmkit.system.errors import RequestError

    report.to_stderr()
    if launcher:
        raise RequestError("--on: starts no processes, so the launcher's options after `--` mean nothing; leave them "
                           "out.")
    if on is not None and processes != 1:
        raise RequestError("--processes: --on says how many GPUs there are, as --on 8xH100; leave it out.")
    where = cluster(on, asked["--gpu-memory"], asked["--flops"], asked["--bandwidth"], asked["--gpus-per-node"],
                    processes)
    disk = asked["--disk-bandwidth"]
    assumed = Assumed(
        asked["--mfu"], DISK if disk is None else quantity(disk, "--disk-bandwidth", "1GB/s", "B/s|Bps", bits=True),
        asked["--price"], asked["--strategy"])
    request = train.checked(*given, settings, 1)
    report.quiet_libraries()
    found = outlook(request, where, assumed, datetime.now().astimezone())
    if as_json:
        print(json.dumps(found))
    else:
        show(found)
    return 0


def show(found: Mapping[str, Any]) -> None:
    """The outlook as two tables; what is assumed, and what stands in the way, follows on stderr."""
    from llmkit.system import report, terminal

    cluster = found["cluster"]
    several = f" in {cluster['machines']:,} machines of {cluster['gpus_per_machine']}"
    machines = several if cluster["machines"] > 1 else ""
    terminal.say(
        f"{found['recipe']}: {found['learning']} with {found['tuning']}, {found['backbone']}, {found['optimizer']}, "
        f"{found['precision']}, on {cluster['gpus']}x{cluster['name']}{machines}; nothing was measured\n")
    report.figures(lines(found))
    terminal.out("")
    room = size(found["strategies"][0]["memory"]["room"])
    head = ["strategy", "memory a GPU", f"of {room}", "rows at once", "tokens/s", "sent a step", "hides", "training"]
    report.table([[translate(name) for name in head],
                  *([name, *map(translate, rest)] for name, *rest in map(row, found["strategies"]))])
    for line in changes(found):
        terminal.say(line)
    for note in found["notes"]:
        terminal.err(note)
    for warning in found["warnings"]:
        terminal.err(f"warning: {warning}")


def row(one: Mapping[str, Any]) -> list[str]:
    """A way to spread the model: `ddp  141 GB  too much  1  …`."""
    traffic = one["traffic"]
    hides = "nothing to hide" if not traffic["bytes"] else "yes" if traffic["hides"] else \
        f"{1 - traffic['exposed'] / traffic['seconds']:.0%}"
    name = one["strategy"] if one["available"] else f"{one['strategy']} {translate('(not for this recipe)')}"
    return [name, size(one["memory"]["total"]), "fits" if one["fits"] else "too much", f"{one['micro_batch_size']:,}",
            f"{one['tokens_per_second']:,.0f}", size(traffic["bytes"]) if traffic["bytes"] else "none", hides,
            span(one["training_seconds"])]


def lines(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures of the way that the run takes: (what, how much, what there is to say of it)."""
    from llmkit.cli.preparing.plan import seen, words

    def said(count: float) -> str:
        return words(count).strip()

    chosen = next(one for one in found["strategies"] if one["strategy"] == found["strategy"])
    memory, length, checkpoint, time = chosen["memory"], found["length"], found["checkpoint"], found["time"]
    trained, active = found["trainable_parameters"], found["active_parameters"]
    shares = ["all of them train" if trained == found["parameters"] else f"{trained:,} train"]
    if active < found["parameters"]:
        shares.append(f"{active:,} at work for a token")
    about = "" if length["exact"] else "about "
    checkpointing = translate(", computed again") if found["gradient_checkpointing"] else ""
    parts = ", ".join(f"{translate(name)}{checkpointing if name == 'activations' else ''} {size(memory[name])}"
                      for name in STATES)
    traffic = chosen["traffic"]
    out = [
        ("parameters", f"{found['parameters']:,}", "; ".join(map(translate, shares))),
        ("a step", many(found["global_batch_size"], "row"), f"{said(length['tokens_per_step'])} tokens; "
         f"{many(chosen['micro_batch_size'], 'row')} at once on a GPU, {many(chosen['accumulation'], 'time')}; "
         f"packing {found['packing']}, at most {found['max_length']:,} tokens"),
        ("the run", f"{about}{many(length['steps'], 'step')}", seen(length)),
        ("", "", ""),
        ("memory", size(memory["total"]), f"a GPU, {chosen['strategy']}; {size(memory['room'])} of "
         f"{size(found['cluster']['memory'])} can be planned with"),
        ("", "", parts),
        ("speed", f"{chosen['tokens_per_second']:,.0f} tokens/s", f"{chosen['seconds_per_step']:.3g} s a step at an "
         f"MFU of {found['assumed']['mfu']:.0%} of {words(found['cluster']['flops'])}FLOP/s; a token is "
         f"{words(found['flops_per_token'])}FLOP"),
    ]
    if traffic["bytes"]:
        hides = "hides behind computing" if traffic["hides"] else f"{traffic['exposed']:.3g} s of it don't hide"
        out.append(("traffic", size(traffic["bytes"]), f"that a GPU sends a step, {traffic['seconds']:.3g} s; {hides}"))
    spent = (f"training {span(time['training'])}, {many(time['evaluation_count'], 'evaluation')} "
             f"{span(time['evaluations'])}, checkpoints {span(time['checkpoints'])}")
    out += [
        ("checkpoint", size(checkpoint["bytes"]), f"{checkpoint['seconds']:.3g} s at "
         f"{size(found['assumed']['disk'])}/s, {many(checkpoint['count'], 'time')}; "
         f"{size(checkpoint['disk'])} of disk"),
        ("time", span(time["total"]), translate(spent) + translate(ends(found["ends"])))]
    if found["cost"] is not None:
        hours = found["cluster"]["gpus"] * time["total"] / 3600
        out.append(("cost", f"{found['cost']:,.2f}", f"{hours:,.1f} GPU hours at {found['assumed']['price']:g}"))
    return out


def changes(found: Mapping[str, Any]) -> list[str]:
    """What makes it fit, as words to type."""
    if found["fits"]:
        return []
    would = [f"{one['strategy']} would fit, and this recipe can't lie in parts: docs/sharding.md says what can"
             for one in found["strategies"] if one["fits"] and not one["available"]][:1]
    if not found["remedies"]:
        return ["", "nothing that was tried makes it fit: take a smaller model, or GPUs with more memory", *would]
    out = ["", "it fits with one of these, each reckoned anew:"]
    for one in found["remedies"]:
        words = [f"--on {one['on']}x{found['cluster']['name']}"] if one["on"] else []
        words += [f"--set {shell_word(setting)}" for setting in one["set"]]
        out.append(f"  {' '.join(words)}   {size(one['memory'])} a GPU")
    return [*out, *would]


def size(count: float) -> str:
    """Bytes in words, also of whole clusters: `96.4 GB`, `1.93 TB`."""
    from llmkit.system.machine import size as of_machine

    return f"{count / 1e12:,.3g} TB" if count >= 1e12 else of_machine(count)


def span(seconds: float) -> str:
    """Seconds in words: `3.2 days`, `5 h 12 min`, `40 s`.

    >>> span(0), span(0.2), span(1), span(4000), span(1e6), span(1e9)
    ('0 s', '< 1 s', '1 s', '1 h 07 min', '11.6 days', '31.7 years')
    """
    if 0 < seconds < 0.95:
        return "< 1 s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * DAY:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02d} min"
    years = seconds / (365.25 * DAY)
    return f"{seconds / DAY:,.1f} days" if years < 2 else f"{years:,.1f} years"


def ends(when: str | None) -> str:
    """`; started now, it ends on 3 December 2026 at 14:05`."""
    if when is None:
        return "; it would take more than a century"
    moment = datetime.fromisoformat(when)
    return f"; started now, it ends on {moment.day} {MONTHS[moment.month - 1]} {moment.year} at {moment:%H:%M}"
