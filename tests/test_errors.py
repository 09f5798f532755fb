"""How a run ends: whose fault it was, in one line."""

import pytest

from lfd.errors import DiskFull, Diverged, Refused, foreign_code


@pytest.mark.parametrize("error", [ValueError("a\n b"), SystemExit(3), ZeroDivisionError()])
def test_what_other_peoples_code_raises_is_told_as_theirs(error):
    with (
        pytest.raises(Refused, match="^environment X failed with ") as caught,
        foreign_code("environment X", "mend it"),
    ):
        raise error
    assert caught.value.__cause__ is error and "\n" not in str(caught.value)
    assert str(caught.value).endswith("; mend it; HYDRA_FULL_ERROR=1 shows the traceback")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Refused("own"), Diverged("own"), DiskFull("own")])
def test_what_is_ours_passes_through_other_peoples_code(error):
    with pytest.raises(type(error)) as caught, foreign_code("environment X"):
        raise error
    assert caught.value is error
