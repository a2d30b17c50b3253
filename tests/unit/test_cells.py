"""Every combination of the axes, and the order in which to compute them."""

from __future__ import annotations

import pytest
from pack.figures.axes import Axis
from pack.figures.cells import Cell, cells, check_distinct, count, execution_order

CFG = Axis("cfg", (1.0, 7.0))
STEPS = Axis("steps", (10, 20, 30))


def test_cells_are_the_product_of_the_axes_with_the_last_one_fastest() -> None:
    assert cells([CFG, STEPS]) == tuple(
        Cell((column, row), (("cfg", cfg), ("steps", steps)))
        for column, cfg in enumerate((1.0, 7.0))
        for row, steps in enumerate((10, 20, 30))
    )


def test_no_axes_make_the_one_cell() -> None:
    assert cells([]) == (Cell((), ()),)
    assert str(Cell((), ())) == "the only cell"


def test_repeated_values_keep_their_own_cells() -> None:
    assert [cell.index for cell in cells([Axis("seed", (5, 5))])] == [(0,), (1,)]


def test_two_axes_of_one_parameter_are_refused() -> None:
    with pytest.raises(ValueError, match='Two axes vary "cfg"'):
        cells([CFG, STEPS, Axis("cfg", (3.0,))])


def test_a_cell_tells_its_values() -> None:
    cell = cells([CFG, STEPS])[-1]
    assert (cell.get("cfg"), cell.get("steps"), cell.get("seed"), cell.get("seed", 4)) == (7.0, 30, None, 4)
    assert str(cell) == "cfg 7, steps 30"


def changes(order: tuple[Cell, ...], parameter: str) -> int:
    values = [cell.get(parameter) for cell in order]
    return sum(one != other for one, other in zip(values, values[1:], strict=False))


def test_what_is_costly_to_change_changes_least() -> None:
    axes = [CFG, Axis("checkpoint", ("a", "b")), Axis("lora_weight", (0.0, 1.0)), STEPS]
    order = execution_order(cells(axes))
    assert sorted(order, key=lambda cell: cell.index) == list(cells(axes))
    assert changes(order, "checkpoint") == 1
    assert changes(order, "lora_weight") == 3


def test_a_costly_value_that_an_axis_repeats_is_visited_once() -> None:
    order = execution_order(cells([CFG, Axis("checkpoint", ("a", "b", "a"))]))
    assert changes(order, "checkpoint") == 1
    assert len(order) == 6


def test_equal_costs_keep_the_given_order() -> None:
    found = cells([CFG, STEPS])
    assert execution_order(found, {}) == found
    assert [cell.get("steps") for cell in execution_order(found, {"steps": 1})] == [10, 10, 20, 20, 30, 30]


def test_a_hundred_million_cells_are_counted_and_not_made() -> None:
    axes = [Axis("cfg", tuple(number / 100 for number in range(10_000))), Axis("seed", tuple(range(10_000)))]
    check_distinct(axes)
    assert count(axes) == 10**8
    with pytest.raises(ValueError, match='Two axes vary "seed"'):
        check_distinct([*axes, axes[1]])
