"""What the unit tests share."""

import hypothesis

# How long an example takes only says how busy the machine is.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
