"""What the service pushed into states, and what intake has done with it since."""

from contracts.settings import Settings


def settle_pushed(settings: Settings) -> int:
    """Forget the pushed events that intake is through with; return how many are left.

    To be called before the features are built from the lake: those that are left are added to the
    states that `materialize` writes.
    """
    from feature_repo.lookup import FeatureLookup
    from lake.journal_ids import still_journaled

    lookup = FeatureLookup(settings.features)
    return lookup.settle(lambda event_ids: still_journaled(settings.journal, event_ids))
