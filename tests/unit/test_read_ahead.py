"""Reading ahead: in order, never too much at once, and an error where it belongs."""

from __future__ import annotations

import threading

import pytest
from pack.trainer.read_ahead import ReadAhead


def test_values_come_in_the_order_in_which_they_are_taken() -> None:
    with ReadAhead(lambda key: key * key, range(50)) as ahead:
        assert [ahead.take(key) for key in range(50)] == [key * key for key in range(50)]


def test_what_comes_next_is_loaded_before_it_is_asked_for() -> None:
    loaded: set[int] = set()
    third = threading.Event()

    def load(key: int) -> int:
        loaded.add(key)
        if key == 2:
            third.set()
        return key

    with ReadAhead(load, range(100), threads=2, ahead=3) as ahead:
        assert ahead.take(0) == 0
        assert third.wait(10)
    # one was taken, three may wait
    assert loaded <= {0, 1, 2, 3}


def test_an_error_is_raised_for_its_own_key_alone() -> None:
    def load(key: int) -> float:
        return 1 / (key - 2)

    with ReadAhead(load, range(5)) as ahead:
        assert ahead.take(1) == -1
        with pytest.raises(ZeroDivisionError):
            ahead.take(2)
        assert ahead.take(3) == 1


def test_keys_may_be_skipped_and_others_asked_for() -> None:
    with ReadAhead(str, [1, 2, 3, 4], ahead=2) as ahead:
        assert ahead.take(2) == "2"
        assert ahead.take(9) == "9"
        assert ahead.take(1) == "1"
        assert ahead.take(4) == "4"


def test_an_interrupt_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), ReadAhead(str, range(100)) as ahead:
        ahead.take(0)
        raise KeyboardInterrupt
    assert threading.active_count() == before
