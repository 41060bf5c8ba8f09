"""Which plan of a sweep to take, if any pays, and the line of code that does it."""

from dataclasses import fields, replace

from expedite.evaluate.comparators import method_of, plan_of_spans
from expedite.evaluate.comparators.rival import Rival
from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import label
from expedite.evaluate.tasks import TASKS
from expedite.evaluate.tasks.base import Metric
from expedite.plan import Plan, Span

# A plan that is not faster than this is not worth its loss.
LEAST_SPEEDUP = 1.02
# How much of its first metric a plan must keep; without labels, how alike predictions must be,
# which falls faster: what differs from the unpatched model is not always wrong.
LEAST_RETENTION = 0.98
LEAST_FIDELITY = 0.95


def share_metric(task: str) -> Metric:
    """The first of a task's metrics of which 1 is the best: how alike two answers are."""
    return next(metric for metric in TASKS[task].metrics if not metric.lower_is_better)


def kept(row: Row, task: str) -> float | None:
    """How much a plan keeps: retention where there are labels, or else fidelity."""
    if row.retention is not None:
        return row.retention
    return row.fidelity.get(share_metric(task).name)


def recommend(results: Results, least_speedup: float = LEAST_SPEEDUP) -> Row | None:
    """The fastest plan that keeps enough, or else the one that keeps most; None where none pays.

    Args:
        results: What was measured.
        least_speedup: What pays; 0 is for a plan to look at, whether it pays or not.
    """
    paying = [row for row in _judged(results) if row.speedup >= least_speedup]
    by_labels = any(row.retention is not None for row in paying)
    least = LEAST_RETENTION if by_labels else LEAST_FIDELITY
    # Where others have a retention, a fidelity says less.
    shares = {
        id(row): (row.retention if by_labels else kept(row, results.task)) or 0.0 for row in paying
    }
    enough = [row for row in paying if shares[id(row)] >= least]
    if enough:
        return max(enough, key=lambda row: row.speedup)
    return max(paying, key=lambda row: shares[id(row)], default=None)


def _judged(results: Results) -> list[Row]:
    """The rows of plans whose figures are numbers."""
    return [row for row in results.rows if row.plan and not row.is_broken]


def best_by_method(results: Results) -> dict[str, Plan]:
    """The plan of each method that is recommended among its own, whether it pays or not.

    Example:
        >>> from expedite.evaluate.comparators import plan_of
        >>> plans = [plan_of("pool", 1, 4), plan_of("expedite", 1, 5), plan_of("expedite", 1, 4)]
        >>> rows = [Row(plan, 1, 1, speedup=n, retention=0.99) for n, plan in enumerate(plans)]
        >>> best = best_by_method(Results({}, "segmentation", rows=rows))
        >>> [(method, plan.spans[0].clusters) for method, plan in best.items()]
        [('pool', (4, 4)), ('expedite', (4, 4))]
    """
    groups: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.plan is not None:
            groups.setdefault(method_of(row.plan).split(" ")[0], []).append(row)
    best = {
        method: recommend(replace(results, rows=rows), least_speedup=0.0)
        for method, rows in groups.items()
    }
    return {method: row.plan for method, row in best.items() if row and row.plan}


def verdict(results: Results) -> str:
    """One sentence on what a sweep recommends.

    Example:
        >>> verdict(Results({}, "segmentation", rows=[]))
        'Nothing to recommend: no plan was measured.'
    """
    if not any(row.plan for row in results.rows):
        return "Nothing to recommend: no plan was measured."
    if not (plans := _judged(results)):
        return "Nothing to recommend: figures of every plan are no numbers (nan)."
    best = recommend(results)
    if best is None:
        fastest = max(plans, key=lambda row: row.speedup)
        return (
            f"No plan pays: the fastest, {label(fastest)}, is {fastest.speedup:.2f} times as fast "
            f"as the unpatched model, and {LEAST_SPEEDUP} is the least that counts."
        )
    return f"{label(best)} is {best.speedup:.2f} times as fast{_loss(best, results.task)}"


def _loss(row: Row, task: str) -> str:
    share = kept(row, task)
    if share is None:
        return "; what it costs in accuracy was not measured."
    if row.retention is not None:
        least, what = (
            LEAST_RETENTION,
            f"a retention of {share:.1%} in {TASKS[task].metrics[0].title}",
        )
    else:
        least, what = LEAST_FIDELITY, f"a fidelity of {share:.1%} in {share_metric(task).title}"
    return f" at {what}" + ("." if share >= least else ", the most that any plan that pays keeps.")


def code(plan: Plan) -> str:
    """The line of code that patches a model with a plan.

    Example:
        >>> from expedite.plan import make_plan
        >>> code(make_plan(4, 14, iterations=3))
        'expedite.patch(model, alpha=4, clusters=(14, 14), iterations=3)'
        >>> code(Plan((Span(2, 20), Span(4, 14))))
        'expedite.patch(model, expedite.Plan((expedite.Span(alpha=2, clusters=(20, 20)),
        expedite.Span(alpha=4, clusters=(14, 14)))))'
    """
    method, *_ = method_of(plan).split(" ")
    if isinstance(plan, Rival):
        return f"expedite.patch(model, {plan!r})"
    if len(plan.spans) > 1:
        spans = ", ".join(f"expedite.Span({_arguments(span)})" for span in plan.spans)
        settings = ", ".join(["", *_settings(plan, Plan(plan.spans))])
        return f"expedite.patch(model, expedite.Plan(({spans}){settings}))"
    named = [] if method == "expedite" else [f"method={method!r}"]
    settings_ = _settings(plan, plan_of_spans(method, plan.spans))
    return f"expedite.patch(model, {', '.join([_arguments(plan.spans[0]), *named, *settings_])})"


def _arguments(span: Span) -> str:
    values = {field.name: getattr(span, field.name) for field in fields(span)}
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not None)


def _settings(plan: Plan, plain: Plan) -> list[str]:
    names = [field.name for field in fields(plan)]
    differing = [name for name in names if getattr(plan, name) != getattr(plain, name)]
    return [f"{name}={getattr(plan, name)!r}" for name in differing]
