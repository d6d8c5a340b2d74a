"""Pages of a list that is in memory. Pure."""


def page_start(asked: str, count: int, size: int, *, at_end: bool = False) -> int:
    """The number of the first row that is shown: of the page in which the row `asked` is, as an address
    has it. Without a number: of the first page, or `at_end` of the last."""
    last_page = max(0, count - 1) // size * size
    if asked.isdecimal() and len(asked) < 10:
        return min(int(asked) // size * size, last_page)
    return last_page if at_end else 0
