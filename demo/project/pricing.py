"""Prices are whole cents."""


def discounted(total: int, percent: int) -> int:
    """`total` less `percent` percent of it; half a cent is rounded in the customer's favour."""
    return total - total * percent // 100
