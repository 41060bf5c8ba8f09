"""Write the table of docs/hosts.md: every check of every host, and GFLOPs of real sizes.

    python -m benchmarks.hosts

From the repository's root; takes about ten minutes and 11 GB of memory.
"""

import gc

import torch
from rich.progress import track

import expedite
from benchmarks.marked import put
from expedite.measure.flops import count_flops
from tests.host_table import CHECKS, DOCS, HOSTS, Host, check, line


def gflops(host: Host) -> str:
    """What the model of real size takes, unpatched and patched."""
    torch.manual_seed(0)
    model, size = host.make_full()
    images = torch.randn(1, 3, *size)
    plain = count_flops(model, images)
    patched = count_flops(expedite.patch(model, **host.plan), images)
    uncounted = {**plain.unsupported, **patched.unsupported}
    if uncounted:
        raise RuntimeError(f"{host.full} has operations that are not counted: {uncounted}")
    saved = 1 - patched.total / plain.total
    return f"{plain.total:.1f} → {patched.total:.1f} | {saved:.0%}"


def main() -> None:
    """Check, count and write."""
    head = ("host", *CHECKS, "GFLOPs of", "unpatched → patched", "saved")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for host in track(HOSTS, "hosts"):
        with torch.no_grad():
            lines.append(f"{line(host, check(host))} {gflops(host)} |")
        print(lines[-1], flush=True)
        gc.collect()
    put(DOCS, "hosts", "\n".join(lines))


if __name__ == "__main__":
    main()
