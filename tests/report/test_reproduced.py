"""Published rows beside those of a sweep."""

from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row as Measured
from expedite.plan import make_plan
from expedite.recipes import Recipe, Row
from expedite.report.reproduced import pairs, reproduced_record

PLAN, OTHER = make_plan(4, 20), make_plan(6, 20)
ROWS = (Row(None, 10.0, 2.0, 50.0), Row(PLAN, 6.0, 3.0, 49.0), Row(OTHER, 7.0, None, None))
RECIPE = Recipe("r", "m", (64, 64), 5, "mIoU %", "f.pth", "o", rows=ROWS, flops_per_multiply_add=2)


def measured(plan: object, miou: float, dtype: str = "float32") -> Measured:
    return Measured(plan, 1, 1, metrics={"miou": miou}, dtype=dtype)  # type: ignore[arg-type]


def test_rows_are_those_of_their_plan_in_float32() -> None:
    rows = [measured(None, 0.5), measured(PLAN, 0.4), measured(PLAN, 0.1, "bfloat16")]
    found = list(pairs(RECIPE, Results({}, "segmentation", rows=rows)))
    assert [pair.published for pair in found] == list(ROWS)
    assert [pair.measured for pair in found] == [*rows[:2], None]
    assert [pair.metric for pair in found] == [50.0, 40.0, None]


def test_a_record_says_what_was_not_measured() -> None:
    record = reproduced_record(RECIPE, Results({"model": "r"}, "segmentation", rows=[]))
    assert [row["measured"] for row in record["rows"]] == [None] * 3
    assert record["rows"][1]["published"] == {"gflops": 6.0, "fps": 3.0, "metric": 49.0}
    assert (record["flops_per_multiply_add"], record["request"]) == (2, {"model": "r"})
