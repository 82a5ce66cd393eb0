from pricing import discounted


def test_whole_percent() -> None:
    assert discounted(1000, 10) == 900


def test_half_a_cent_goes_to_the_customer() -> None:
    assert discounted(999, 15) == 849
