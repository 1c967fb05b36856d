#!/bin/bash
# usage: sim.sh FILE...    Run tests on the simulated device: as tests/e2e/pytest.sh, and left out with PyTorch 2.14.1.
[[ " ${NNMEM_TEST_VERSIONS-2.14.1} " == *" 2.14.1 "* ]] || {
	echo "skipped: without PyTorch 2.14.1 there is nothing to run on the simulated device"
	exit 77
}
exec "$(dirname "$0")/../e2e/pytest.sh" "$@"
