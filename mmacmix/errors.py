"""What goes wrong for a reason that the user can mend."""


class UserError(Exception):
    """Something the user can mend; the message is one sentence."""
