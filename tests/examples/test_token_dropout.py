"""Each row of the main job has its own rates of dropout, or those that all share."""

import dataclasses

import pytest
from lm.errors import UserError
from lm.rows import models
from lm.settings import PRESETS, BKCore, Sizes, Transformer


def test_rates_are_a_rows_own():
    settings = dataclasses.replace(
        PRESETS["smoke"],
        rows=("transformer", "bk"),
        sizes=Sizes(layers=1, heads=1, width=32, dropout=0.2),
        transformer=Transformer(token_dropout=0.05),
        bk=BKCore(chains=8, dropout=0.1, token_dropout=0.15),
    )
    plain, bk = (model.config for model in models(settings, 30))
    assert (plain.dropout, plain.token_dropout) == (0.2, 0.05)
    assert (bk.dropout, bk.token_dropout) == (0.1, 0.15)


@pytest.mark.parametrize("name", ["dropout", "token_dropout"])
def test_rates_that_hide_all_are_refused(name):
    with pytest.raises(UserError, match=f"--bk.{name.replace('_', '-')} must be in"):
        BKCore(**{name: 1.0})
