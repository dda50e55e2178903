"""Which texts a training reads."""

import torch
from m2d_train.distil.order import Order

OWN, MIX, BATCH = 600, 300, 32


def order(seed: int = 42) -> Order:
    lengths = [3 + (place * 37) % 61 for place in range(OWN + MIX)]
    return Order(lengths[:OWN], lengths[OWN:], BATCH, seed)


def test_a_list_is_read_whole_before_it_repeats() -> None:
    made = order()
    rows = torch.cat([made.rows(step) for step in range(made.window)])
    own, mix = rows[rows < OWN], rows[rows >= OWN]
    assert len(own) == len(own.unique())
    assert len(mix) == len(mix.unique())
    many = torch.cat([made.rows(step) for step in range(200)])
    counts = torch.bincount(many, minlength=OWN + MIX)
    assert counts[:OWN].max() - counts[:OWN].min() <= 2  # the last window is read in part
    assert counts[OWN:].max() - counts[OWN:].min() <= 2


def test_a_text_of_the_user_is_read_five_times_as_often() -> None:
    made = order()
    many = torch.cat([made.rows(step) for step in range(400)])
    own, mix = ((many < OWN).sum() / OWN, (many >= OWN).sum() / MIX)
    assert abs(own / mix - 5) < 0.1


def test_the_texts_of_a_step_have_similar_lengths_and_steps_differ() -> None:
    made = order()
    spread = [made.lengths[made.rows(step)].unique() for step in range(made.window)]
    means = torch.stack([lengths.float().mean() for lengths in spread])
    assert max(map(len, spread)) < len(made.lengths.unique()) / 3
    assert means.std() > 5


def test_another_process_reads_the_same_and_another_seed_does_not() -> None:
    here, there = order(), order()
    for step in (70, 3):  # a resumed training starts anywhere
        assert torch.equal(here.rows(step), there.rows(step))
    assert not torch.equal(here.rows(3), order(seed=1).rows(3))


def test_fewer_texts_than_a_step_has_are_one_step() -> None:
    made = Order([5] * 40, [5] * 7, 64, 42)
    assert {len(made.rows(step)) for step in range(20)} == {44}
