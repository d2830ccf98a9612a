"""`python -m manyhands.jobs.controller`: what `manyhands up` starts in the background."""

import sys

from manyhands.jobs.controller.web.start import main

sys.exit(main(sys.argv[1:]))
