from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.evaluation.views import MARGIN_SHARE, SMALLEST_SHARE, disturbed, empty_window

PEOPLE = st.lists(
    st.tuples(st.floats(0, 90), st.floats(0, 60), st.floats(1, 40), st.floats(1, 40)).map(
        lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
    ),
    max_size=3,
)


@given(seed=st.integers(0, 1000), people=PEOPLE)
def test_a_window_never_shows_a_marked_person_nor_is_it_small(
    seed: int, people: list[tuple[float, float, float, float]]
) -> None:
    picture = np.zeros((80, 120, 3), np.uint8)
    margin = MARGIN_SHARE * 120
    for x1, y1, x2, y2 in people:
        picture[max(0, int(y1 - margin + 1)) : int(y2 + margin), max(0, int(x1 - margin + 1)) : int(x2 + margin)] = 255

    window = empty_window(picture, people, np.random.default_rng(seed))

    if window is not None:
        assert not window.any()
        assert window.shape[0] >= int(SMALLEST_SHARE * 80)
        assert window.shape[1] >= int(SMALLEST_SHARE * 120)
    else:
        assert people


def test_a_person_all_over_the_photo_leaves_no_window() -> None:
    picture = np.zeros((80, 120, 3), np.uint8)

    assert empty_window(picture, [(0, 0, 120, 80)], np.random.default_rng(1)) is None


def test_views_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    picture = np.random.default_rng(5).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    views = [disturbed(picture, np.random.default_rng(seed)) for seed in range(40)]

    assert all(view.shape == (60, 80, 3) and view.dtype == np.uint8 and view.flags.c_contiguous for view in views)
    assert len({view.tobytes() for view in [picture, *views]}) == 41
    assert np.array_equal(views[7], disturbed(picture, np.random.default_rng(7)))
    grays = [np.ptp(view.astype(int), axis=2).mean() < 3 for view in views]
    assert 0 < sum(grays) < 20
