"""Names as a page has room for them."""

from hypothesis import given
from hypothesis import strategies as st

from truestep._page import plain, short


@given(name=st.text(min_size=1, max_size=90))
def test_a_short_name_is_short_and_starts_and_ends_as_the_name_does(name) -> None:
    brief = short(name)
    assert len(brief) <= 36
    assert (brief[0], brief[-1]) == (name[0], name[-1])


def test_markup_stays_visible_and_templates_shut() -> None:
    assert plain("<b>%{x}</b>") == "&lt;b&gt;%&#123;x}&lt;/b&gt;"
