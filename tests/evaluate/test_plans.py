import random
from pathlib import Path

import pytest
import yaml

from expedite import ExpediteError, Plan, Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.plans import grid_of_plans, parse_size, read_plans
from expedite.measure.mode import Job, Mode
from expedite.plan import make_plan
from tests.damaged import ODD_YAML, damaged

FILE = """
- {method: expedite, alpha: 4, clusters: 14}
- method: [tome, pool]
  alpha: [2, 4]
  clusters: [14, 15x52]
- {alpha: 4, clusters: 14, iterations: [5, 3]}  # the first again
- spans: [{alpha: 2, keep: 0.5, beta: 1}, {alpha: 4, clusters: [15, 52]}]
  temperature: auto
- {method: downsample, keep: 0.5}
"""


def test_a_file_lists_plans_and_grids_of_them(tmp_path: Path) -> None:
    path = tmp_path / "plans.yml"
    path.write_text(FILE)
    jobs = read_plans(path)
    assert {job.mode for job in jobs} == {Mode()}
    assert [job.plan for job in jobs] == [
        make_plan(4, 14),
        *(
            plan_of(method, alpha, size)
            for method in ("tome", "pool")
            for alpha in (2, 4)
            for size in (14, (15, 52))
        ),
        make_plan(4, 14, iterations=3),
        Plan((Span(2, keep=0.5, beta=1), Span(4, (15, 52)))),
        plan_of("downsample", keep=0.5),
    ]


def test_modes_of_plans_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plans.yml"
    path.write_text(
        "- {alpha: 4, clusters: 14}\n- {alpha: 4, clusters: 14, dtype: bfloat16, compile: [none, "
        "default]}\n"
    )
    plan = make_plan(4, 14)
    assert read_plans(path, ["float16", "bfloat16"]) == [
        *(Job(plan, Mode(dtype)) for dtype in ("float16", "bfloat16")),
        Job(plan, Mode("bfloat16", "default")),  # not compiled, it is there already
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("- {alpha: 4, clusters: 14, dtype: int8}", "the dtype 'int8' was asked"),
        ("- {alpha: 4, clusters: 14, compile: 3}", "compiling in mode '3' was asked"),
        ("[", "is not readable as YAML"),
        ("alpha: 4", "holds no list of plans"),
        ("[]", "lists no plan"),
        ("- 3", "holds no list of plans"),
        ("- {clusters: 14}", "without alpha"),
        ("- {alpha: 4}", "exactly one of the two"),
        ("- {alpha: four, clusters: 14}", "alpha='four'"),
        ("- {alpha: 4, clusters: 14, colour: red}", "colour"),
        ("- {alpha: 4, clusters: 14x14x14}", "the size '14x14x14' was given"),
        ("- {alpha: 4, clusters: 14, method: magic}", "magic"),
        ("- {spans: 3}", "spans=3 was asked; a list of mappings"),
        ("- {spans: [{alpha: 1, clusters: 3}], alpha: 3}", "with alpha; a list of mappings"),
        ("- {spans: [{alpha: 1, size: 3}]}", "a span with 'size' was asked"),
    ],
)
def test_files_that_list_no_plans(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "plans.yml"
    path.write_text(content)
    with pytest.raises(ExpediteError, match=sentence):
        read_plans(path)


def test_a_grid_has_every_combination_once() -> None:
    plans = grid_of_plans(["expedite", "downsample"], [[2], [4]], [([(14, 14)], None)], None, {})
    assert plans == [make_plan(2, 14), make_plan(4, 14), plan_of("downsample", clusters=14)]
    several = grid_of_plans(
        ["expedite"], [[2]], [(None, [0.5])], 3, {"iterations": [4, 6], "delta": [False]}
    )
    assert several == [make_plan(2, keep=0.5, beta=3, iterations=n, delta=False) for n in (4, 6)]


def test_several_spans_have_one_size_for_all_or_one_for_each() -> None:
    (plan,) = grid_of_plans(["expedite"], [[2, 4]], [([(20, 20), (14, 14)], None)], None, {})
    assert plan == Plan((Span(2, 20), Span(4, 14)))
    (same,) = grid_of_plans(["expedite"], [[2, 4]], [(None, [0.5])], None, {})
    assert same == Plan((Span(2, keep=0.5), Span(4, keep=0.5)))
    with pytest.raises(ExpediteError, match="2 spans were asked with the sizes of 3"):
        grid_of_plans(["expedite"], [[2, 4]], [(None, [0.5, 0.4, 0.3])], None, {})


def test_sizes() -> None:
    assert parse_size("15x52") == (15, 52)
    with pytest.raises(ExpediteError, match="'four' was given where a number is due"):
        parse_size("four")


def test_damaged_plans_end_in_one_sentence(tmp_path: Path) -> None:
    """A part left out or replaced by what nobody meant; a sample of some 900 of these."""
    plans = [
        {"method": "expedite", "alpha": 4, "clusters": [14, 14], "keep": None, "iterations": 3},
        {"spans": [{"alpha": 1, "clusters": 8, "beta": 2}], "method": "paper", "dtype": "float16"},
        {"method": "downsample", "clusters": "14x20", "compile": "none"},
    ]
    path = tmp_path / "plans.yml"
    refused = 0
    for content in random.Random(0).sample([*damaged(plans, ODD_YAML)], 300):
        path.write_text(yaml.dump(content))
        try:
            read_plans(path)
        except ExpediteError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert refused > 150
