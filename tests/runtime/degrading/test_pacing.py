from __future__ import annotations

from runtime.degrading.pacing import Pacing


def flown(stride: int, fps: float, took_s: float, seconds: float) -> tuple[list[int], Pacing]:
    """Numbers of the frames that are taken, where each is done ``took_s`` after it was taken."""
    now, taken, done_s = [0.0], [], 0.0
    pacing = Pacing(lambda: stride, lambda: now[0])
    done = None
    for number in range(int(fps * seconds)):
        if done is not None and number / fps >= done_s:
            now[0] = done_s
            done()
            done = None
        now[0] = number / fps
        if pacing.wants(number):
            assert done is None or stride == 1
            taken.append(number)
            done, done_s = pacing.taken(number, lambda: None), now[0] + took_s
    return taken, pacing


def test_at_a_stride_of_one_every_frame_is_taken() -> None:
    taken, pacing = flown(1, 10, 0.5, 10)
    assert taken == list(range(100)) and pacing.left_out == 0


def test_a_fast_engine_takes_one_frame_in_so_many() -> None:
    taken, pacing = flown(3, 10, 0.01, 10)
    assert taken == list(range(0, 100, 3)) and pacing.left_out == 100 - len(taken)


def test_a_slow_engine_rests_for_most_of_the_time_however_fast_frames_come() -> None:
    taken, _ = flown(3, 100, 0.2, 60)
    assert 0.2 * len(taken) / 60 <= 1 / 3 + 0.01 and len(taken) > 80


def test_back_at_a_stride_of_one_nothing_is_left_out_any_more() -> None:
    stride, now = [4], [0.0]
    pacing = Pacing(lambda: stride[0], lambda: now[0])
    pacing.taken(0, lambda: None)
    assert not pacing.wants(1)
    stride[0] = 1
    assert pacing.wants(2) and pacing.left_out == 1
